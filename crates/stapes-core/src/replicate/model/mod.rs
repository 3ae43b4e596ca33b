//! A model of replication over time: a source, its targets with their history projects, users who
//! interfere, and runs that follow our plans and may be cut off anywhere.
//!
//! `incus` holds what the servers do by themselves, `world` executes plans and checks every law after
//! every step, `laws` throws random lives at it, `months` compares half a year with a simulation
//! that never loses anything.

mod incus;
mod laws;
mod months;
mod world;
