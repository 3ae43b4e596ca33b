//! Finds where content is cut into chunks: at the very places where restic cuts it, so that either
//! program reuses what the other has stored.
//!
//! A chunk ends at the first place, from 512 KiB on, where the Rabin fingerprint of its last 64 bytes
//! ends in twenty zero bits, and after 8 MiB at the latest. restic begins each chunk with a window of
//! zeros and a one; both have left it again when the first place is looked at, so that a place is
//! judged by the 64 bytes before it and by nothing else.
//!
//! That is why several stretches can be searched at once. The next fingerprint needs the one before,
//! through a table, and a processor waits for that most of the time; with [`LANES`] stretches it
//! computes one while it waits for another.
//!
//! It keeps no bytes and knows no chunk but the one that it is asked about.

use crate::Result;
use crate::restic::polynomial::{DEGREE, Polynomial};

/// The length of a chunk below which it is not cut, in bytes.
pub const MIN_LENGTH: usize = 512 << 10;
/// The length at which a chunk is cut whatever it holds, in bytes.
pub const MAX_LENGTH: usize = 8 << 20;

/// How many bytes the fingerprint is of.
const WINDOW: usize = 64;
/// A place is a cut if these bits of its fingerprint are zero; one in a mebibyte is.
const MASK: u64 = (1 << 20) - 1;
/// How many stretches are searched at once. On a Zen 4 core with its sibling busy, one takes 3 ns for a
/// byte, four take 1.0, six 0.74, and eight do not fit into the registers.
const LANES: usize = 6;
/// How many places of each stretch are looked at before anybody asks whether one is a cut. What lies
/// behind a cut was searched in vain, half of `LANES * STRETCH` on average; the window of a stretch
/// must be read anew for each, which costs `WINDOW / STRETCH`.
const STRETCH: usize = 8 << 10;
/// What is searched at once: the stretches and the window before the first.
const BLOCK: usize = LANES * STRETCH + WINDOW;

/// Finds the cuts of one repository: the tables for its polynomial, 4 KiB, to be shared.
#[derive(Debug)]
pub struct Cuts {
    /// What the byte that leaves the window contributes after the next has come in.
    leaves: [u64; 256],
    /// What takes away the eight bits above the degree, by these bits, and puts their remainder.
    reduces: [u64; 256],
}

impl Cuts {
    /// For the polynomial as it stands in a repository's configuration, in hexadecimal digits.
    ///
    /// # Errors
    ///
    /// If it is none that restic takes.
    pub fn new(polynomial: &str) -> Result<Self> {
        let polynomial = Polynomial::from_hex(polynomial)?;
        let mut leaves = [0; 256];
        let mut reduces = [0; 256];
        for (byte, (leaves, reduces)) in
            (0..=u8::MAX).zip(leaves.iter_mut().zip(reduces.iter_mut()))
        {
            let alone = polynomial.append(0, byte);
            *leaves = (0..WINDOW).fold(alone, |print, _| polynomial.append(print, 0));
            let above = u64::from(byte) << DEGREE;
            *reduces = polynomial.reduce(above) | above;
        }
        Ok(Self { leaves, reduces })
    }

    /// The length of the first chunk of `content`, if it ends in there; `searched` is up to which
    /// length this was asked before of the same content, zero for the first time.
    pub fn first(&self, content: &[u8], searched: usize) -> Option<usize> {
        let end = content.len().min(MAX_LENGTH);
        let begin = searched.saturating_add(1).max(MIN_LENGTH);
        if begin <= end
            && let Some(found) = self.search(content.get(begin - WINDOW..end).unwrap_or_default())
        {
            return Some(begin + found);
        }
        (content.len() >= MAX_LENGTH).then_some(MAX_LENGTH)
    }

    /// The first cut in `bytes`, counted from the end of the first window in it.
    fn search(&self, bytes: &[u8]) -> Option<usize> {
        // Zeros, as in images of disks, are cut at the first place: worth a look before the lanes.
        let (first_window, _) = bytes.split_first_chunk::<WINDOW>()?;
        if self.fingerprint(first_window) & MASK == 0 {
            return Some(0);
        }
        let mut done = 0;
        while let Some(block) = bytes.get(done..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
            if let Some(found) = self.search_lanes(block) {
                return Some(done + found);
            }
            done += LANES * STRETCH;
        }
        let rest = bytes.get(done..)?;
        self.search_one(rest).map(|found| done + found)
    }

    /// Searches a block, all but its first place.
    #[expect(
        clippy::indexing_slicing,
        reason = "the compiler sees that no index leaves the arrays"
    )]
    fn search_lanes(&self, block: &[u8; BLOCK]) -> Option<usize> {
        let mut prints = [0; LANES];
        for (lane, print) in prints.iter_mut().enumerate() {
            *print = self.fingerprint(&block[lane * STRETCH..lane * STRETCH + WINDOW]);
        }
        let mut found = [None; LANES];
        for place in 0..STRETCH {
            let mut any = false;
            // This loop is unrolled, so that the lanes run beside each other.
            for (lane, print) in prints.iter_mut().enumerate() {
                let at = lane * STRETCH + place;
                *print = self.slide(*print, block[at], block[at + WINDOW]);
                any |= is_cut(*print);
            }
            if any {
                for (found, print) in found.iter_mut().zip(prints) {
                    if is_cut(print) && found.is_none() {
                        *found = Some(place + 1);
                    }
                }
            }
        }
        (0..).step_by(STRETCH).zip(found).find_map(|(before, found)| Some(before + found?))
    }

    /// Searches what is too short for the lanes, all but its first place.
    fn search_one(&self, bytes: &[u8]) -> Option<usize> {
        let (window, entering) = bytes.split_at_checked(WINDOW)?;
        let mut print = self.fingerprint(window);
        let place = bytes.iter().zip(entering).position(|(out, byte)| {
            print = self.slide(print, *out, *byte);
            is_cut(print)
        });
        place.map(|place| place + 1)
    }

    /// The fingerprint of the bytes of one window.
    fn fingerprint(&self, window: &[u8]) -> u64 {
        window.iter().fold(0, |print, byte| self.slide(print, 0, *byte))
    }

    /// The fingerprint when `leaving` leaves the window and `entering` enters it.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a fingerprint is below 2^53, a byte below 256")]
    fn slide(&self, print: u64, leaving: u8, entering: u8) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "45 of 53 bits are shifted out")]
        let above = (print >> (DEGREE - 8)) as u8;
        (print << 8)
            ^ self.reduces[usize::from(above)]
            ^ self.leaves[usize::from(leaving)]
            ^ u64::from(entering)
    }
}

#[inline(always)]
fn is_cut(print: u64) -> bool {
    print & MASK == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLYNOMIAL: &str = "3da3358b4dc173";

    /// All cuts of `content` as restic's documentation describes them, byte by byte.
    fn plainly(content: &[u8]) -> Vec<usize> {
        let polynomial = Polynomial::from_hex(POLYNOMIAL).unwrap();
        let leaves: Vec<u64> = (0..=u8::MAX)
            .map(|byte| (1..WINDOW).fold(u64::from(byte), |print, _| polynomial.append(print, 0)))
            .collect();
        let (mut lengths, mut begin) = (vec![], 0);
        while begin < content.len() {
            let mut window = [0; WINDOW];
            window[0] = 1;
            let (mut print, mut at, mut length) = (1, 1, 0);
            for byte in &content[begin..] {
                length += 1;
                if length > MIN_LENGTH - WINDOW {
                    print = polynomial.append(print ^ leaves[usize::from(window[at])], *byte);
                    window[at] = *byte;
                    at = (at + 1) % WINDOW;
                }
                if length >= MIN_LENGTH && (print & MASK == 0 || length == MAX_LENGTH) {
                    break;
                }
            }
            lengths.push(length);
            begin += length;
        }
        lengths
    }

    /// All cuts of `content` when it arrives in parts of `part` bytes.
    fn in_parts(content: &[u8], part: usize) -> Vec<usize> {
        let cuts = Cuts::new(POLYNOMIAL).unwrap();
        let (mut lengths, mut begin, mut searched, mut end) = (vec![], 0, 0, 0);
        while end < content.len() {
            end = (end + part).min(content.len());
            while let Some(length) = cuts.first(&content[begin..end], searched) {
                lengths.push(length);
                (begin, searched) = (begin + length, 0);
            }
            searched = end - begin;
        }
        lengths.extend((begin < end).then_some(end - begin));
        lengths
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..length).map(next).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn cuts_are_restics_however_the_content_arrives(
            seed: u64,
            length in 0_usize..5 << 20,
            period in prop_oneof![Just(0_usize), 1_usize..5000],
            zeros in 0_usize..2 << 20,
            part in 1_usize..3 << 20,
        ) {
            let mut content = noise(seed, length);
            if period > 0 {
                content = content.iter().take(period).copied().cycle().take(length).collect();
            }
            let middle = length / 2;
            content.splice(middle..middle, std::iter::repeat_n(0, zeros));
            prop_assert_eq!(in_parts(&content, part.max(4096)), plainly(&content));
        }
    }

    #[test]
    fn zeros_are_cut_at_once_and_what_never_cuts_at_eight_mebibytes() {
        assert_eq!(in_parts(&vec![0; 1_500_000], 100_000), [MIN_LENGTH, MIN_LENGTH, 451_424]);
        let ones = vec![1; 20 << 20];
        assert_eq!(in_parts(&ones, 1 << 20), [MAX_LENGTH, MAX_LENGTH, 4 << 20]);
    }

    #[test]
    fn a_cut_in_any_lane_and_at_the_ends_of_stretches_is_found() {
        // Sixty-four bytes that are a cut wherever they stand, found by trying.
        let cuts = Cuts::new(POLYNOMIAL).unwrap();
        let content = noise(99, 8 << 20);
        let length = cuts.first(&content, 0).unwrap();
        let cutting = &content[length - WINDOW..length];
        for place in [1, 2, 63, 64, STRETCH - 1, STRETCH, STRETCH + 1, 5 * STRETCH, BLOCK] {
            for further in [0, 1, LANES * STRETCH, 9 * STRETCH] {
                let end = MIN_LENGTH + place + further;
                let mut content = vec![1; end + STRETCH];
                content[end - WINDOW..end].copy_from_slice(cutting);
                assert_eq!(cuts.first(&content, 0), Some(end), "{place} {further}");
                assert_eq!(cuts.first(&content, end - 1), Some(end), "{place} {further}");
                assert_eq!(cuts.first(&content, end), None, "{place} {further}");
            }
        }
    }
}
