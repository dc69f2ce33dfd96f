//! Layers on their way, in the reference's lines.

use std::borrow::Cow;
use std::task::Poll;

use bytes::Bytes;
use hull_api::units::human_size;
use hull_api::{ProgressDetail, ProgressMessage};
use hull_engine::images::{Transfer, What};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::archives;
use crate::http::{Answer, stream};

/// The line for what has happened.
pub(super) fn message(transfer: Transfer) -> ProgressMessage {
    let Transfer { id, what } = transfer;
    let (status, bar): (Cow<'static, str>, _) = match what {
        What::Line(status) => return ProgressMessage { status, id, ..ProgressMessage::default() },
        What::Tagged { tag, digest, size } => {
            let status = format!("{tag}: digest: {digest} size: {size}");
            return ProgressMessage { status, id, ..ProgressMessage::default() };
        }
        What::Waiting => ("Pulling fs layer".into(), None),
        What::Downloading { done, total } => ("Downloading".into(), Some((done, total))),
        What::Complete => ("Download complete".into(), None),
        What::Extracting { done, total } => ("Extracting".into(), Some((done, total))),
        What::Pulled => ("Pull complete".into(), None),
        What::Exists => ("Already exists".into(), None),
        What::Preparing => ("Preparing".into(), None),
        What::Pushing { done, total } => ("Pushing".into(), Some((done, total))),
        What::Pushed => ("Pushed".into(), None),
        What::LayerExists => ("Layer already exists".into(), None),
        What::MountedFrom(from) => (format!("Mounted from {from}").into(), None),
        What::Resting { seconds } => (format!("Retrying in {seconds} seconds").into(), None),
    };
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let detail = bar.map(|(done, total)| ProgressDetail { current: number(done), total: number(total) });
    ProgressMessage {
        status: status.into_owned(),
        progress_detail: Some(detail.unwrap_or_default()),
        progress: bar.map(|(done, total)| drawn(done, total)).unwrap_or_default(),
        id,
        ..ProgressMessage::default()
    }
}

/// The answer that tells what happens while `work` goes on, and at last why it failed, if it did. A client that
/// goes away drops the answer, and with it the work.
pub(super) fn answer(
    work: impl Future<Output = hull_engine::Result<()>> + Send + 'static,
    mut told: UnboundedReceiver<Transfer>,
) -> Answer {
    let mut going = JoinSet::new();
    going.spawn(work);
    let mut ended = None;
    let lines = futures_util::stream::poll_fn(move |context| {
        if let Poll::Ready(Some(transfer)) = told.poll_recv(context) {
            return Poll::Ready(Some(lines(transfer)));
        }
        if let Poll::Ready(Some(done)) = going.poll_join_next(context) {
            ended = Some(done.unwrap_or(Err(hull_engine::Error::ShuttingDown)));
        }
        if !going.is_empty() {
            return Poll::Pending;
        }
        // What was told before the end comes before it.
        if let Ok(transfer) = told.try_recv() {
            return Poll::Ready(Some(lines(transfer)));
        }
        Poll::Ready(ended.take().and_then(Result::err).map(|error| archives::failed(&error)))
    });
    stream("application/json", lines)
}

/// What has happened, and, of a tag, the same for programs.
fn lines(transfer: Transfer) -> Bytes {
    let aux = match &transfer.what {
        What::Tagged { tag, digest, size } => {
            let aux = json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } });
            format!("{aux}\r\n")
        }
        _ => String::new(),
    };
    let mut line = archives::line(&message(transfer)).to_vec();
    line.extend_from_slice(aux.as_bytes());
    line.into()
}

/// `[=====>     ]  1.5MB/15MB`, as clients show it that cannot draw themselves.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn drawn(done: u64, total: u64) -> String {
    const WIDTH: usize = 50;
    let shown = |bytes: u64| human_size(bytes as f64, 4);
    if total == 0 {
        return if done == 0 { String::new() } else { format!("{:>8}", shown(done)) };
    }
    let part = usize::try_from(done.saturating_mul(100) / total / 2).unwrap_or(WIDTH).min(WIDTH);
    let bar = format!("[{}>{}]", "=".repeat(part), " ".repeat(WIDTH - part));
    match done > total {
        true => format!("{bar} {:>8}", shown(done)),
        false => format!("{bar} {:>8}/{}", shown(done), shown(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::Digest;

    fn told(what: What) -> String {
        serde_json::to_string(&message(Transfer { id: "88ebb5ae4906".to_owned(), what })).unwrap()
    }

    #[test]
    fn lines_are_those_of_the_reference() {
        assert_eq!(
            told(What::Waiting),
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"88ebb5ae4906"}"#
        );
        assert_eq!(
            told(What::Downloading { done: 36_445, total: 1_141_301 }),
            r#"{"status":"Downloading","progressDetail":{"current":36445,"total":1141301},"progress":"[=>                                                 ]  36.45kB/1.141MB","id":"88ebb5ae4906"}"#
        );
        assert_eq!(
            told(What::Extracting { done: 1_141_301, total: 1_141_301 }),
            r#"{"status":"Extracting","progressDetail":{"current":1141301,"total":1141301},"progress":"[==================================================>]  1.141MB/1.141MB","id":"88ebb5ae4906"}"#
        );
        assert_eq!(
            told(What::Line("Pulling from a/b".to_owned())),
            r#"{"status":"Pulling from a/b","id":"88ebb5ae4906"}"#
        );
        let digest =
            Digest::parse("sha256:420c5185f9da81b260cc956121b20e2fd955c053439e09ddfa12291bf34c0060").unwrap();
        let tagged = What::Tagged { tag: "1".to_owned(), digest: digest.clone(), size: 527 };
        let tagged = lines(Transfer { id: String::new(), what: tagged });
        let expected = format!(
            "{{\"status\":\"1: digest: {digest} size: 527\"}}\r\n{{\"progressDetail\":{{}},\"aux\":{{\"Tag\":\"1\",\
             \"Digest\":\"{digest}\",\"Size\":527}}}}\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&tagged), expected);
        let line = message(Transfer::line("Status: x".to_owned()));
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"status":"Status: x"}"#);
        assert_eq!(
            drawn(2_222_080, 2_065_225),
            "[==================================================>]  2.222MB"
        );
        assert_eq!((drawn(0, 0), drawn(5, 0)), (String::new(), "      5B".to_owned()));
    }
}
