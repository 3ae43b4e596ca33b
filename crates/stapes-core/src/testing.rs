//! What tests of several modules share.

use proptest::test_runner::Config;

/// So many random cases, unless `PROPTEST_CASES` wants another number (`make laws`).
pub(crate) fn cases(usually: u32) -> Config {
    let wanted = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { wanted.cases } else { usually };
    Config { cases, failure_persistence: None, ..wanted }
}
