//! `[p]` Patterns for one part of a host: those of Go's `filepath.Match`, which upstream matches with.
//!
//! `*` is any run of characters, `?` any one; `[a-z0]` is one of those, `[^a-z]` one of the others; `\` takes its meaning from
//! the character after it. Not for: where a host is split into parts (`keyring`).

/// A pattern that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Run,
    Any,
    One(char),
    /// Ranges of which one has to fit, or none.
    Class {
        other: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Piece {
    /// Whether it stands for this one character.
    fn fits(&self, c: char) -> bool {
        match self {
            Piece::Run => false,
            Piece::Any => true,
            Piece::One(one) => *one == c,
            Piece::Class { other, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *other
            }
        }
    }
}

impl Glob {
    /// `None` for a class without an end or with nothing in it, a range without an end, and a `\` with nothing after it.
    pub(crate) fn parse(pattern: &str) -> Option<Glob> {
        let mut rest = pattern.chars().peekable();
        let mut pieces = Vec::new();
        while let Some(c) = rest.next() {
            pieces.push(match c {
                '*' => Piece::Run,
                '?' => Piece::Any,
                '\\' => Piece::One(rest.next()?),
                '[' => {
                    let other = rest.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                        let low = of_class(&mut rest)?;
                        let high = if rest.next_if_eq(&'-').is_some() { of_class(&mut rest)? } else { low };
                        ranges.push((low, high));
                    }
                    Piece::Class { other, ranges }
                }
                c => Piece::One(c),
            });
        }
        Some(Glob(pieces))
    }

    /// Only the last run is ever made longer: an earlier one that took more would leave less for what follows it.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut piece, mut at) = (0, 0);
        let mut run: Option<(usize, usize)> = None;
        while at < text.len() || piece < self.0.len() {
            match self.0.get(piece) {
                Some(Piece::Run) => {
                    run = Some((piece, at));
                    piece += 1;
                    continue;
                }
                Some(one) if text.get(at).is_some_and(|c| one.fits(*c)) => {
                    (piece, at) = (piece + 1, at + 1);
                    continue;
                }
                _ => {}
            }
            match run {
                Some((start, taken)) if taken < text.len() => {
                    run = Some((start, taken + 1));
                    (piece, at) = (start + 1, taken + 1);
                }
                _ => return false,
            }
        }
        true
    }
}

/// A character inside a class.
fn of_class(rest: &mut impl Iterator<Item = char>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("a*b*c", "axbxcxc", true),
            ("a*b*c", "axcxb", false),
            ("a*a*a*a*a*b", &"a".repeat(1000), false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("[a-z0-9]*", "7x", true),
            ("[^]", "", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("a?b", "aéb", true),
            ("a[^a]b", "aéb", true),
            ("a???b", "aéb", false),
            ("[a-é]*", "é", true),
            ("[z-a]", "m", false),
            (r"[\]a]", "]", true),
            (r"[\-]", "-", true),
            (r"[x\-]", "-", true),
            (r"[x\-]", "z", false),
            (r"[\-x]", "a", false),
            ("[!a]", "!", true),
            ("[a^]", "^", true),
            ("[[]", "[", true),
            ("*[*]", "a*", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("a]", "a]", true),
        ] {
            let matched = Glob::parse(pattern).is_some_and(|glob| glob.matches(text));
            assert_eq!(matched, expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn broken_patterns_are_none() {
        for pattern in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^]", "[^bc", "a[", r"a\", r"[\", "[a-"]
        {
            assert_eq!(Glob::parse(pattern), None, "{pattern:?}");
        }
    }
}
