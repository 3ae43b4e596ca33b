//! Polynomials over GF(2), for the cutting of content: a number is a polynomial, its bits are the
//! coefficients.
//!
//! A new repository gets one at random, so that the lengths of chunks do not tell which content they
//! hold. Cutting is the business of `ingest`. Nothing here is fast, and need not be: a table is made
//! once for each run.

use super::crypto;
use crate::{Error, Result};

/// The degree that restic gives the polynomials of its repositories.
pub(super) const DEGREE: u32 = 53;

/// A repository's polynomial: irreducible, of degree [`DEGREE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Polynomial(u64);

impl Polynomial {
    /// Reads the polynomial as it stands in a repository's configuration: hexadecimal digits.
    ///
    /// # Errors
    ///
    /// If it is none that a repository can have; with a reducible one, cuts would hardly depend on
    /// the content, and restic refuses it too.
    pub(super) fn from_hex(text: &str) -> Result<Self> {
        let damaged = |why: &str| {
            Error::damaged(
                "the repository's configuration",
                format!("its chunker polynomial {why}"),
            )
        };
        let number =
            u64::from_str_radix(text, 16).map_err(|_| damaged("is not a hexadecimal number"))?;
        if degree(number) != Some(DEGREE) {
            return Err(damaged("has another degree than 53"));
        }
        if !is_irreducible(number) {
            return Err(damaged("is not irreducible"));
        }
        Ok(Self(number))
    }

    /// The fingerprint that becomes of `fingerprint` when `byte` follows; slow, for tables.
    pub(super) fn append(self, fingerprint: u64, byte: u8) -> u64 {
        self.reduce((fingerprint << 8) | u64::from(byte))
    }

    /// The remainder of `number` divided by this polynomial.
    pub(super) fn reduce(self, number: u64) -> u64 {
        remainder(number, self.0)
    }
}

/// An irreducible polynomial at random; its bits are the coefficients.
pub(super) fn random() -> u64 {
    loop {
        for word in crypto::random().chunks_exact(8) {
            let word = word.iter().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
            // Both ends are always there: the degree is 53, and x is no factor.
            let candidate = (word & ((1 << DEGREE) - 1)) | (1 << DEGREE) | 1;
            if is_irreducible(candidate) {
                return candidate;
            }
        }
    }
}

/// The highest power that `number` holds, none for zero.
fn degree(number: u64) -> Option<u32> {
    number.checked_ilog2()
}

fn remainder(mut number: u64, divisor: u64) -> u64 {
    let Some(low) = degree(divisor) else { return number };
    while let Some(high) = degree(number).filter(|high| *high >= low) {
        number ^= divisor << (high - low);
    }
    number
}

/// Ben-Or's test: a polynomial of degree n is irreducible if it has no factor in common with
/// x^(2^i) - x for every i up to n/2, because those are the products of all that are of degree i.
fn is_irreducible(polynomial: u64) -> bool {
    let Some(high) = degree(polynomial) else { return false };
    let mut power = 2;
    (1..=high / 2).all(|_| {
        power = square(power, polynomial);
        common_divisor(polynomial, power ^ 2) == 1
    })
}

/// The square of `number`, which is below `modulus`, a polynomial of degree 62 at most.
fn square(number: u64, modulus: u64) -> u64 {
    (0..u64::BITS).rev().fold(0, |sum, bit| {
        let doubled = remainder(sum << 1, modulus);
        if number >> bit & 1 == 1 { doubled ^ number } else { doubled }
    })
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_of_restic_are_irreducible_and_products_are_not() {
        // The first is in restic's documentation, the second was made by restic 0.14.
        for known in [0x25_b468_838d_cb75, 0x34_4c02_8f51_5d5d] {
            assert!(is_irreducible(known), "{known:x}");
            assert!(!is_irreducible(known ^ 0b10), "{known:x}");
        }
    }

    #[test]
    fn a_product_without_roots_is_reducible() {
        // x^2 + x + 1 times polynomials of degree 51.
        for factor in [1_u64 << 51 | 0b11, 1 << 51 | 1 << 20 | 1 << 7 | 0b11, 1 << 51 | 0b111_0001]
        {
            let product = factor ^ factor << 1 ^ factor << 2;
            assert_eq!(product.ilog2(), 53);
            assert!(!is_irreducible(product), "{product:x}");
        }
    }

    #[test]
    fn random_ones_have_degree_53_and_differ() {
        let (first, second) = (random(), random());
        assert_eq!((first.ilog2(), second.ilog2()), (53, 53));
        assert_ne!(first, second);
        assert!(is_irreducible(first));
    }

    #[test]
    fn polynomials_that_restic_made_are_taken() {
        for text in ["3da3358b4dc173", "25b468838dcb75", "2d39fa9ab5f3b5"] {
            let taken = Polynomial::from_hex(text);
            assert_eq!(taken.is_ok(), is_irreducible(u64::from_str_radix(text, 16).unwrap()));
        }
        assert!(Polynomial::from_hex("3da3358b4dc173").is_ok());
    }

    #[test]
    fn what_cannot_cut_is_refused() {
        for text in ["", "0", "xyz", "3da3358b4dc172", "1da3358b4dc173", "ffffffffffffffffff"] {
            assert!(Polynomial::from_hex(text).is_err(), "{text}");
        }
    }

    #[test]
    fn irreducible_polynomials_of_small_degree_are_those_of_the_tables() {
        let found: Vec<u64> = (2..32).filter(|number| is_irreducible(*number)).collect();
        assert_eq!(found, [2, 3, 7, 11, 13, 19, 25, 31]);
    }
}
