//! Authenticated encryption of everything in a repository: AES-256-CTR with Poly1305-AES.
//!
//! What is sealed is `nonce | cipher text | code`, 32 bytes longer than the plain text. Everything works
//! in place, so that a pack is filled without copying. Where keys come from is `keys.rs`.

use std::fmt;

use aes256ctr_poly1305aes::aead::AeadInPlace;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Nonce, Tag};
use rustic_core::repofile::MasterKey;

use crate::error::{Error, Result};

/// How many bytes longer a sealed text is than the plain one.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// Where the text of a sealed block begins.
pub const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 64;

/// The key of a repository, or one that a password gave. It does not print.
#[derive(Clone)]
pub struct Key(Aes256CtrPoly1305Aes, Parts);

/// The key as its file holds it: for AES-256, for AES-128 of the code, and `r` of Poly1305.
#[derive(Clone)]
struct Parts([u8; KEY_BYTES]);

/// The authentication code is not that of this key and these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its authentication code is wrong")]
pub struct NotAuthentic;

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(…)")
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        // Of two keys that both opened something; nobody times this.
        self.1.0 == other.1.0
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Best effort: `unsafe` would be needed to keep the compiler from leaving this out.
        self.0 = std::hint::black_box([0; KEY_BYTES]);
        std::hint::black_box(&self.0);
    }
}

impl Key {
    /// A key of 64 bytes: 32 for AES-256, 16 for the AES-128 of the code, 16 for `r`.
    pub(super) fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Aes256CtrPoly1305Aes::new(&bytes.into()), Parts(bytes))
    }

    /// A new key at random.
    pub(super) fn random() -> Self {
        Self::from_bytes(random())
    }

    /// `None` if a part has another length than it must have.
    pub(super) fn from_master(master: &MasterKey) -> Option<Self> {
        let encrypt: [u8; 32] = master.encrypt.as_slice().try_into().ok()?;
        let k: [u8; 16] = master.mac.k.as_slice().try_into().ok()?;
        let r: [u8; 16] = master.mac.r.as_slice().try_into().ok()?;
        Self::from_parts(&encrypt, &k, &r)
    }

    /// `None` if a part has another length than it must have.
    pub(super) fn from_parts(encrypt: &[u8], k: &[u8], r: &[u8]) -> Option<Self> {
        let bytes = [encrypt, k, r].concat();
        let lengths = [encrypt.len(), k.len(), r.len()];
        (lengths == [32, 16, 16]).then(|| bytes.try_into().ok().map(Self::from_bytes)).flatten()
    }

    /// As `rustic_core` and the key files want it.
    pub(super) fn to_master(&self) -> MasterKey {
        let (encrypt, mac) = self.1.0.split_at(32);
        let (k, r) = mac.split_at(16);
        let mut master = MasterKey::new();
        master.encrypt = encrypt.to_vec();
        master.mac.k = k.to_vec();
        master.mac.r = r.to_vec();
        master
    }

    /// Encrypts `plain` in place; it becomes [`OVERHEAD_BYTES`] longer.
    pub fn seal(&self, plain: &mut Vec<u8>) {
        let length = plain.len();
        plain.resize(length + NONCE_BYTES, 0);
        plain.copy_within(..length, NONCE_BYTES);
        self.seal_tail(plain, 0);
    }

    /// Encrypts what follows `start` in place: [`NONCE_BYTES`] of room, which the nonce takes, and the
    /// plain text. The authentication code is added behind it.
    ///
    /// A block is so compressed right to where it lies in a pack, and sealed there.
    /// If there is nothing behind `start`, an empty text is sealed.
    pub fn seal_tail(&self, buffer: &mut Vec<u8>, start: usize) {
        if buffer.len() < start + NONCE_BYTES {
            buffer.resize(start + NONCE_BYTES, 0);
        }
        let (room, text) = buffer.split_at_mut(start + NONCE_BYTES);
        let nonce = Nonce::from(random_nonce());
        if let Some(room) = room.get_mut(start..) {
            room.copy_from_slice(&nonce);
        }
        #[expect(clippy::expect_used, reason = "it fails for associated data only, which is empty")]
        let tag = self.0.encrypt_in_place_detached(&nonce, &[], text).expect("no associated data");
        buffer.extend_from_slice(&tag);
    }

    /// Decrypts `sealed` in place; it becomes [`OVERHEAD_BYTES`] shorter.
    ///
    /// # Errors
    /// `Damaged` if it is not what this key sealed; `sealed` is then unchanged.
    pub fn open(&self, sealed: &mut Vec<u8>) -> Result<()> {
        let length = match self.open_slice(sealed) {
            Ok(plain) => plain.len(),
            Err(error) => return Err(Error::damaged("a sealed block", error.to_string())),
        };
        sealed.copy_within(NONCE_BYTES..NONCE_BYTES + length, 0);
        sealed.truncate(length);
        Ok(())
    }

    /// Decrypts `sealed` in place and returns the part that is the plain text.
    ///
    /// # Errors
    /// If it is not what this key sealed; `sealed` is then unchanged.
    pub fn open_slice<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        let (nonce, rest) = sealed.split_at_mut_checked(NONCE_BYTES).ok_or(NotAuthentic)?;
        let end = rest.len().checked_sub(TAG_BYTES).ok_or(NotAuthentic)?;
        let (text, tag) = rest.split_at_mut(end);
        let (nonce, tag) = (Nonce::from_slice(nonce), Tag::from_slice(tag));
        self.0
            .decrypt_in_place_detached(nonce, &[], text, tag)
            .map_err(|_not_authentic| NotAuthentic)?;
        Ok(text)
    }
}

/// Random bytes for keys, salts and nonces.
///
/// They come from the generator of the `rand` crate, seeded by the system, through the door that
/// `rustic_core` leaves open: a new master key is nothing else.
pub(super) fn random() -> [u8; KEY_BYTES] {
    let MasterKey { mac, encrypt } = MasterKey::new();
    let mut bytes = [0; KEY_BYTES];
    for (to, from) in bytes.iter_mut().zip(encrypt.iter().chain(&mac.k).chain(&mac.r)) {
        *to = *from;
    }
    bytes
}

fn random_nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    for (to, from) in nonce.iter_mut().zip(random()) {
        *to = from;
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_no_changed_byte_passes(
            text in prop::collection::vec(any::<u8>(), 0..300),
            place in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let key = Key::random();
            let mut sealed = text.clone();
            key.seal(&mut sealed);
            prop_assert_eq!(sealed.len(), text.len() + OVERHEAD_BYTES);

            let mut changed = sealed.clone();
            let place = place.index(changed.len());
            changed[place] ^= 1_u8 << bit;
            let before = changed.clone();
            prop_assert!(key.open(&mut changed).is_err());
            prop_assert_eq!(changed, before);

            key.open(&mut sealed).unwrap();
            prop_assert_eq!(sealed, text);
        }

        #[test]
        fn a_cut_or_foreign_block_does_not_open(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Key::random().open(&mut bytes.clone()).is_err());
        }
    }

    #[test]
    fn a_block_is_sealed_behind_what_lies_there_already() {
        let key = Key::random();
        let mut pack = b"before".to_vec();
        pack.extend_from_slice(&[0; NONCE_BYTES]);
        pack.extend_from_slice(b"text");
        key.seal_tail(&mut pack, 6);
        assert!(pack.starts_with(b"before"));
        assert_eq!(key.open_slice(&mut pack[6..]).unwrap(), b"text");
    }

    #[test]
    fn the_same_text_is_never_sealed_twice_the_same_way() {
        let key = Key::random();
        let seal = || {
            let mut text = b"text".to_vec();
            key.seal(&mut text);
            text
        };
        assert_ne!(seal(), seal());
        assert_ne!(random(), random());
    }

    #[test]
    fn a_key_does_not_print_and_survives_its_file_form() {
        let key = Key::random();
        assert_eq!(format!("{key:?}"), "Key(…)");
        let again = Key::from_master(&key.to_master()).unwrap();
        let mut text = b"text".to_vec();
        key.seal(&mut text);
        again.open(&mut text).unwrap();
        let mut short = key.to_master();
        short.mac.k.pop();
        assert!(Key::from_master(&short).is_none());
    }
}
