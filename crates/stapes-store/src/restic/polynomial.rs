//! The polynomial that a new repository gets for the cutting of its content.
//!
//! It is chosen at random, so that the lengths of chunks do not tell which content they hold. Cutting
//! with it is the business of `ingest`.

use super::crypto;

/// Irreducible polynomials over GF(2) of degree 53 are what restic takes.
const DEGREE: u32 = 53;

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

/// Rabin's test. The degree is a prime number, so that two questions decide: whether the polynomial
/// divides x^(2^53) - x, and whether it has no root, which would be a factor of degree 1.
fn is_irreducible(polynomial: u64) -> bool {
    let has_no_root = polynomial & 1 == 1 && polynomial.count_ones() % 2 == 1;
    let x = 2;
    has_no_root && (0..DEGREE).fold(x, |power, _| square(power, polynomial)) == x
}

/// The square of a polynomial of degree below 53, modulo another one of degree 53.
fn square(value: u64, modulus: u64) -> u64 {
    // Horner's scheme: shift by one, add where the bit is set, reduce at once.
    (0..DEGREE).rev().fold(0, |sum: u64, bit| {
        let shifted = sum << 1;
        let reduced = if shifted >> DEGREE & 1 == 1 { shifted ^ modulus } else { shifted };
        if value >> bit & 1 == 1 { reduced ^ value } else { reduced }
    })
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
}
