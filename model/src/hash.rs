//! Hashes and short random-looking names as upstream makes them.

/// The letters of generated names: no vowels and no digits that look like one, so that no words appear.
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
#[must_use]
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// FNV-1a, 64 bits.
#[must_use]
pub fn fnv64a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spells `text` with the letters of generated names, one for one, as upstream's `rand.SafeEncodeString`.
#[must_use]
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| letter(usize::from(byte))).collect()
}

/// A suffix such as `x7k2p` from random bits that the caller provides, at most 12 letters long.
#[must_use]
pub fn suffix(mut bits: u64, length: usize) -> String {
    let mut text = String::with_capacity(length);
    for _ in 0..length.min(12) {
        let base = ALPHABET.len() as u64;
        text.push(letter(usize::try_from(bits % base).unwrap_or_default()));
        bits /= base;
    }
    text
}

/// The value of the label `pod-template-hash` for a template in a stable serialized form.
///
/// Upstream hashes a Go dump of its structs, which nobody else can reproduce: the shape of the value is the
/// same (FNV of the template and of the collision count, safely encoded), the value itself differs. Nothing
/// may rely on it: templates are compared, hashes are only names.
#[must_use]
pub fn template_hash(template: &[u8], collisions: Option<i32>) -> String {
    let mut bytes = template.to_vec();
    if let Some(count) = collisions {
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

fn letter(index: usize) -> char {
    char::from(ALPHABET[index % ALPHABET.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn encoding_matches_upstreams_table() {
        assert_eq!(safe_encode(""), "");
        assert_eq!(safe_encode("abc123"), "vwx567");
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn suffixes_differ_with_the_bits_and_keep_their_length() {
        assert_eq!(suffix(0, 5), "bbbbb");
        assert_eq!(suffix(u64::MAX, 5).len(), 5);
        assert_ne!(suffix(1, 5), suffix(2, 5));
        assert_eq!(suffix(0, 99).len(), 12);
    }

    #[test]
    fn a_collision_changes_the_template_hash() {
        assert_ne!(template_hash(b"{}", None), template_hash(b"{}", Some(1)));
        assert_ne!(template_hash(b"{}", Some(1)), template_hash(b"{}", Some(2)));
    }
}
