//! Ingests against stock restic.

#[cfg(test)]
mod oracle;
