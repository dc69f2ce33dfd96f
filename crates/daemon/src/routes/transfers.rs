//! Layers on their way, in the reference's lines.

use hull_api::units::human_size;
use hull_api::{ProgressDetail, ProgressMessage};
use hull_engine::images::{Transfer, What};

/// The line for what has happened.
pub(super) fn message(transfer: Transfer) -> ProgressMessage {
    let Transfer { id, what } = transfer;
    let (status, bar) = match what {
        What::Line(status) => return ProgressMessage { status, id, ..ProgressMessage::default() },
        What::Waiting => ("Pulling fs layer", None),
        What::Downloading { done, total } => ("Downloading", Some((done, total))),
        What::Complete => ("Download complete", None),
        What::Extracting { done, total } => ("Extracting", Some((done, total))),
        What::Pulled => ("Pull complete", None),
        What::Exists => ("Already exists", None),
    };
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let detail = bar.map(|(done, total)| ProgressDetail { current: number(done), total: number(total) });
    ProgressMessage {
        status: status.to_owned(),
        progress_detail: Some(detail.unwrap_or_default()),
        progress: bar.map(|(done, total)| drawn(done, total)).unwrap_or_default(),
        id,
        ..ProgressMessage::default()
    }
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
        let line = message(Transfer::line("Status: x".to_owned()));
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"status":"Status: x"}"#);
        assert_eq!(
            drawn(2_222_080, 2_065_225),
            "[==================================================>]  2.222MB"
        );
        assert_eq!((drawn(0, 0), drawn(5, 0)), (String::new(), "      5B".to_owned()));
    }
}
