//! Resource quantities: `500m`, `128Mi`, `1e3`, exact as upstream's `resource.Quantity`.
//!
//! Amounts are kept in billionths, so every value that the API accepts fits without rounding; finer ones are
//! rounded up, larger ones than an i64 are cut there, as upstream does.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// The notation a quantity was written in, which its canonical text keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Format {
    DecimalExponent,
    DecimalSi,
    BinarySi,
}

/// An amount of a resource. Compares by amount, whatever the notation.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The whole form is wrong.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// Parses `1.5Gi`, `100m`, `2e3`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        check_suffix_form(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(if number.is_empty() { QuantityError::Format } else { QuantityError::Number });
        }
        let (base, exponent, format) = read_suffix(suffix)?;
        let nano = scaled(whole, fraction, base, exponent);
        let below_one = nano > 0 && nano < NANO;
        let format = if format == Format::BinarySi && below_one { Format::DecimalSi } else { format };
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// A whole number, written in decimal.
    #[must_use]
    pub fn from_value(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// A number of thousandths, written in decimal.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A number of bytes, written with `Ki`, `Mi` and so on where that is exact.
    #[must_use]
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// The amount in thousandths, rounded up: CPU time is counted so.
    #[must_use]
    pub fn milli(&self) -> i128 {
        ceil_div(self.nano, NANO / 1000)
    }

    /// The amount in units, rounded up.
    #[must_use]
    pub fn value(&self) -> i128 {
        ceil_div(self.nano, NANO)
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
}

fn check_suffix_form(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if rest.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

fn read_suffix(suffix: &str) -> Result<(i128, i32, Format), QuantityError> {
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent = exponent.parse().map_err(|_| QuantityError::Suffix)?;
            Ok((10, exponent, Format::DecimalExponent))
        }
    }
}

/// `whole.fraction × base^exponent` in billionths: rounded up, cut at the largest quantity.
fn scaled(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0').collect();
    if digits.is_empty() {
        return 0;
    }
    let length = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    // 36 digits hold more than the largest quantity in billionths; what follows only matters for rounding up.
    let (kept, cut) = digits.split_at(digits.len().min(36));
    let round = i128::from(cut.iter().any(|b| *b != b'0'));
    let number = kept.iter().fold(0i128, |number, digit| number * 10 + i128::from(digit - b'0'));
    let mut decimal = length(cut.len()).saturating_sub(length(fraction.len())).saturating_add(9);
    let mut number = number + round;
    if base == 2 {
        let Some(times) = number.checked_mul(1 << exponent) else {
            // The number alone is already beyond what fits unless its fraction is absurdly long.
            return if decimal >= 0 { MAX } else { shift(number / 1_000_000_000, decimal + 9, exponent) };
        };
        number = times;
    } else {
        decimal = decimal.saturating_add(exponent);
    }
    shift(number, decimal, 0)
}

/// `number × 10^decimal × 2^binary`, rounded up and cut.
fn shift(mut number: i128, mut decimal: i32, binary: i32) -> i128 {
    for _ in 0..binary {
        number = number.saturating_mul(2);
    }
    while decimal > 0 && number <= MAX {
        (number, decimal) = (number * 10, decimal - 1);
    }
    let mut rest = false;
    while decimal < 0 && number > 0 {
        rest |= number % 10 != 0;
        (number, decimal) = (number / 10, decimal + 1);
    }
    number.saturating_add(i128::from(rest)).min(MAX)
}

fn ceil_div(number: i128, divisor: i128) -> i128 {
    let down = number.div_euclid(divisor);
    if number.rem_euclid(divisor) == 0 { down } else { down + 1 }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0;
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && whole && !small {
            return write_binary(f, self.nano / NANO);
        }
        write_decimal(f, self.nano, self.format == Format::DecimalExponent)
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut number: i128) -> fmt::Result {
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while number % 1024 == 0 {
        let Some(next) = suffixes.next() else { break };
        (number, suffix) = (number / 1024, next);
    }
    write!(f, "{number}{suffix}")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, nano: i128, exponent_form: bool) -> fmt::Result {
    let (mut number, mut exponent) = (nano, -9);
    while number % 1000 == 0 && exponent < 18 {
        (number, exponent) = (number / 1000, exponent + 3);
    }
    if exponent_form {
        return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
    }
    let suffix = match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        0 => "",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        _ => "E",
    };
    write!(f, "{number}{suffix}")
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl Add for Quantity {
    type Output = Self;
    /// The sum, in the notation of the first summand that is not nothing.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MAX, MAX), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + Self { nano: -other.nano, format: other.format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_become_canonical() {
        for (text, canonical, milli, value) in [
            ("0", "0", 0, 0),
            ("0Ki", "0", 0, 0),
            ("1", "1", 1000, 1),
            ("-1", "-1", -1000, -1),
            ("+5", "5", 5000, 5),
            ("1000", "1k", 1_000_000, 1000),
            ("1024", "1024", 1_024_000, 1024),
            ("1500m", "1500m", 1500, 2),
            ("0.5", "500m", 500, 1),
            (".5", "500m", 500, 1),
            ("1.", "1", 1000, 1),
            ("0.1n", "1n", 1, 1),
            ("1.5Gi", "1536Mi", 1_610_612_736_000, 1_610_612_736),
            ("1Ki", "1Ki", 1_024_000, 1024),
            ("512", "512", 512_000, 512),
            ("1025Ki", "1025Ki", 1_049_600_000, 1_049_600),
            ("0.5Ki", "512", 512_000, 512),
            ("0.0001Ki", "102400u", 103, 1),
            ("1e3", "1e3", 1_000_000, 1000),
            ("12e-3", "12e-3", 12, 1),
            ("1E", "1E", 1_000_000_000_000_000_000_000, 1_000_000_000_000_000_000),
            ("9Ei", "9223372036854775807", 9_223_372_036_854_775_807_000, 9_223_372_036_854_775_807),
            ("1e99", "9223372036854775807", 9_223_372_036_854_775_807_000, 9_223_372_036_854_775_807),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.to_string(), canonical, "{text}");
            assert_eq!((quantity.milli(), quantity.value()), (milli, value), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("x", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1GB", QuantityError::Format),
            ("1.2.3", QuantityError::Number),
            (".", QuantityError::Number),
            ("1i", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1Mi3", QuantityError::Suffix),
            ("--1", QuantityError::Format),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn sums_keep_the_notation() {
        let sum =
            |texts: &[&str]| texts.iter().map(|t| Quantity::parse(t).unwrap()).sum::<Quantity>().to_string();
        assert_eq!(sum(&["64Mi", "64Mi"]), "128Mi");
        assert_eq!(sum(&["100m", "0.9"]), "1");
        assert_eq!(sum(&[]), "0");
        assert_eq!((Quantity::from_value(2) - Quantity::from_milli(500)).to_string(), "1500m");
        assert_eq!(Quantity::from_bytes(1 << 30).to_string(), "1Gi");
    }

    proptest! {
        #[test]
        fn canonical_texts_read_back_as_the_same_amount(text in "[+-]?[0-9]{0,20}(\\.[0-9]{0,20})?(n|u|m|k|M|G|Ki|Mi|Gi|e[+-]?[0-9]{1,2})?") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
            }
        }

        #[test]
        fn any_text_is_an_answer_not_a_panic(text in "\\PC{0,40}") {
            let _answer = Quantity::parse(&text);
        }
    }
}
