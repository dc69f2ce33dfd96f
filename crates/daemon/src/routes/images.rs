//! Images over the wire. The room that keeps them lands next; until then every route says so.

use crate::http::{Failure, Handled};

pub(super) fn later() -> Handled {
    Err(Failure::later("images are not served yet"))
}
