//! HTTP routes, daemon.json and the wiring of one host's services.
