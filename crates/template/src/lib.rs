//! Go's text/template as Docker's --format and log tags use it.
