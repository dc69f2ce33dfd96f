//! Images made of this host's programs, packages and paths.

use hull_api::image::{CaptureRequest, Captured};
use hull_engine::capture::{Add, Capture};

use super::images::reference;
use crate::http::{Call, Handled, ok};

/// `POST /hull/v1/images/capture`.
pub(super) async fn capture(mut call: Call) -> Handled {
    let request: CaptureRequest = call.json("CaptureRequest").await?;
    let name = reference(&request.name, "")?;
    let add = |path: &String| {
        let (source, destination) = path.split_once(':').unwrap_or((path, ""));
        Add { source: source.into(), destination: (!destination.is_empty()).then(|| destination.into()) }
    };
    let options = Capture {
        programs: request.programs,
        packages: request.packages,
        add: request.paths.iter().map(add).collect(),
        ..Capture::default()
    };
    let (image, captured) = call.server.engine.images().capture(options, name).await?;
    ok(&Captured { id: image.id.to_string(), files: captured.paths.len() as u64, size: captured.size })
}
