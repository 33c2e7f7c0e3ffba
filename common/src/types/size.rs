use super::ParseError;

const UNITS: [(char, u32); 6] = [('e', 60), ('p', 50), ('t', 40), ('g', 30), ('m', 20), ('k', 10)];

/// Reads a size: decimal with an optional binary suffix `k m g t p e` in either case.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let bad = || {
        ParseError::new(
            "size",
            text,
            "a number with an optional suffix k, m, g, t, p or e, below 2^64",
        )
    };
    let (digits, shift) = match text.chars().next_back() {
        Some(last) if last.is_ascii_alphabetic() => {
            let unit = UNITS
                .iter()
                .find(|(u, _)| *u == last.to_ascii_lowercase())
                .ok_or_else(bad)?;
            (&text[..text.len() - 1], unit.1)
        }
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Prints a size with the largest unit that divides it exactly: `12m`, `1g`, `1000`, `0`.
pub fn format_size(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_with_the_largest_unit_that_divides() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (12 << 20, "12m"),
            (1 << 30, "1g"),
            (1536, "1536"),
            (3 << 60, "3e"),
        ] {
            assert_eq!(format_size(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
        assert_eq!(parse_size("4K"), Ok(4096));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "k",
            "-1",
            "+1",
            "1x",
            "1.5g",
            "16e",
            "18446744073709551616",
            "0x10",
            "1 k",
            "é",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
