//! What is made of a container's writable layer.

use hull_api::container::Change;
use hull_engine::containers::layer::{self, ChangeKind};

use crate::http::{Call, Handled, ok};

/// `null` where nothing has changed, as the reference prints it.
pub(super) async fn changes(call: &Call, key: &str) -> Handled {
    let changes = call.server.engine.changes(key).await?;
    let row = |change: &layer::Change| Change {
        // JSON has no other bytes than text.
        path: String::from_utf8_lossy(&change.path).into_owned(),
        kind: match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    };
    let rows: Vec<Change> = changes.iter().map(row).collect();
    ok(&(!rows.is_empty()).then_some(rows))
}
