//! Tests of the parts of replication, one module for each; the model tests them together.

mod config;
mod copy;
mod group;
mod marks;
mod plan;
mod prune;
mod select;
