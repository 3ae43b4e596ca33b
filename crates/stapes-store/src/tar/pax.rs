//! PAX records: `length key=value\n`, one after the other. Knows no header.

/// One record; values are bytes, because names and extended attributes are.
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// The whole record with its length, as it stands.
    pub(super) raw: &'a [u8],
}

/// The records of one PAX header.
///
/// # Errors
/// A sentence about the first record that is none.
pub(super) fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let record = record(rest).ok_or("a PAX header holds a record that is none")?;
        rest = rest.get(record.raw.len()..).unwrap_or_default();
        found.push(record);
    }
    Ok(found)
}

fn record(text: &[u8]) -> Option<Record<'_>> {
    // Ten digits are more than any header may hold.
    let digits = text.iter().take(11).position(|byte| *byte == b' ')?;
    let length = decimal(text.get(..digits)?)?;
    let raw = text.get(..usize::try_from(length).ok()?)?;
    let body = raw.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some(Record { key: body.get(..equals)?, value: body.get(equals + 1..)?, raw })
}

/// A number of digits only; neither sign nor space.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Appends a record; its length counts itself.
pub(super) fn append(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} ").as_bytes());
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for size in 0..2000 {
            let mut text = Vec::new();
            append(&mut text, b"k", &vec![b'v'; size]);
            let [record] = records(&text).unwrap().try_into().ok().unwrap();
            assert_eq!((record.key, record.value.len()), (&b"k"[..], size));
            assert_eq!(record.raw, text);
        }
    }

    #[test]
    fn records_that_are_none_are_refused() {
        for text in [
            "5 k=",
            "0 k=v\n",
            "6 k=v",
            "6 =va\n",
            "7 k=v\n",
            "+6 k=v\n",
            " 6 k=v\n",
            "6k=v\n",
            "99999999999999999999 k=v\n",
            "3 \n\n",
            "6 k=v\nx",
        ] {
            assert!(records(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(records(b"6 k=v\n").unwrap().len(), 1);
        assert!(records(b"").unwrap().is_empty());
    }
}
