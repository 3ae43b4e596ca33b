//! Integration tests of the engine, against real servers; one binary, one module per subject.

mod archive;
mod onboard;
mod server_config;
