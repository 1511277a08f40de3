//! `--interval`: a duration as Go programs take it.

/// A duration as Go writes it, in nanoseconds: `5s`, `1h30m`, `1.5ms`, `-2us`.
pub fn parse(text: &str) -> std::result::Result<i64, String> {
    let wrong = || "parse error".to_string();
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at_checked(end).ok_or_else(wrong)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end).ok_or_else(wrong)?;
        let nanoseconds = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        total += number.parse::<f64>().map_err(|_| wrong())? * nanoseconds;
        rest = tail;
    }
    // 292 years are the longest that Go knows.
    if total < i64::MAX as f64 { Ok((sign * total) as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_gos() {
        for (text, nanoseconds) in [
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1us", 1000),
            ("1µs", 1000),
            ("7ns", 7),
            ("0", 0),
            ("0s", 0),
            ("-2ms", -2_000_000),
            ("+1m", 60_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
        for text in ["", "5", "x", "s", "-", "1d", "1 s", "5s ", "1..5s", ".s", "300000000h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
