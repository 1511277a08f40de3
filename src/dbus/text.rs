//! Values of D-Bus as people write them: the text form of GVariant, which runc's callers know from the annotations
//! `org.systemd.property.*` (`uint64 123`, `'inactive-or-failed'`, `['a', 'b']`, `[('/dev/fuse', 'rw')]`).
//!
//! Dictionaries are left out, and so is what has no value on D-Bus: no property of a unit is one.

use super::Value;

/// How deep values may be nested; D-Bus allows 32 levels.
const MAX_DEPTH: u32 = 16;

/// Parses one value; the error says what is wrong with the text.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value(None)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(format!("{:?} follows the value", parser.rest)),
    }
}

/// The first complete type of a signature, and the rest.
fn split_type(signature: &str) -> Option<(&str, &str)> {
    let end = match signature.as_bytes().first()? {
        b'a' => 1 + split_type(signature.get(1..)?)?.0.len(),
        b'(' => {
            let mut rest = signature.get(1..)?;
            while !rest.starts_with(')') {
                rest = split_type(rest)?.1;
            }
            // At least one member, then the parenthesis.
            Some(signature.len() - rest.len() + 1).filter(|length| *length > 2)?
        }
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' => 1,
        _ => return None,
    };
    signature.split_at_checked(end)
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    /// Takes a character if it is the next one.
    fn takes(&mut self, wanted: char) -> bool {
        if self.peek() != Some(wanted) {
            return false;
        }
        self.rest = self.rest.strip_prefix(wanted).unwrap_or_default();
        true
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        let taken = taken.to_string();
        self.rest = rest;
        taken
    }

    fn value(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("too many values in each other".to_string());
        }
        let value = match self.peek() {
            None => Err("there is no value".to_string()),
            Some('@') => self.of_signature(),
            Some('[') => self.array(expected.and_then(|signature| signature.strip_prefix('a'))),
            Some('(') => self.tuple(expected),
            Some('<') => self.variant(),
            Some('"' | '\'') => self.text(expected),
            Some('b') if self.rest.starts_with("b'") || self.rest.starts_with("b\"") => self.byte_string(),
            Some(c) if c.is_ascii_alphabetic() => self.word(expected),
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => self.number(expected),
            Some(c) => Err(format!("{c:?} begins no value")),
        }?;
        self.depth -= 1;
        match expected.filter(|signature| *signature != value.signature()) {
            Some(signature) => Err(format!("a value of type {signature} is expected, not {}", value.signature())),
            None => Ok(value),
        }
    }

    /// `@as []`
    fn of_signature(&mut self) -> Result<Value, String> {
        self.takes('@');
        let signature = self.take_while(|c| !c.is_whitespace());
        match split_type(&signature) {
            Some((_, "")) => self.value(Some(&signature)),
            _ => Err(format!("{signature:?} is no type")),
        }
    }

    /// `uint64 5`, `true`, `nan`
    fn word(&mut self, expected: Option<&str>) -> Result<Value, String> {
        let word = self.take_while(|c| c.is_ascii_alphanumeric());
        let signature = match word.as_str() {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "inf" | "nan" if expected == Some("d") => {
                return Ok(Value::Double(if word == "inf" { f64::INFINITY } else { f64::NAN }));
            }
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            _ => return Err(format!("{word:?} is neither a type nor a value; texts are quoted")),
        };
        self.value(Some(signature))
    }

    fn array(&mut self, element: Option<&str>) -> Result<Value, String> {
        self.takes('[');
        let mut element = element.map(str::to_string);
        let mut values = Vec::new();
        while !self.takes(']') {
            if !values.is_empty() && !self.takes(',') {
                return Err("an array needs , or ] after a value".to_string());
            }
            let value = self.value(element.as_deref())?;
            element.get_or_insert(value.signature());
            values.push(value);
        }
        match element {
            Some(element) => Ok(Value::Array(element, values)),
            None => Err("an empty array needs a type, like @as []".to_string()),
        }
    }

    /// `('a', 1)`; one of a single value has a comma behind it.
    fn tuple(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.takes('(');
        let mut types = expected.and_then(|signature| signature.strip_prefix('(')?.strip_suffix(')'));
        let mut values = Vec::new();
        loop {
            let first = types.and_then(split_type);
            values.push(self.value(first.map(|(first, _)| first))?);
            types = first.map(|(_, rest)| rest).filter(|rest| !rest.is_empty());
            let more = self.takes(',');
            if self.takes(')') {
                return Ok(Value::Struct(values));
            }
            if !more {
                return Err("a tuple needs , or ) after a value".to_string());
            }
        }
    }

    fn variant(&mut self) -> Result<Value, String> {
        self.takes('<');
        let value = self.value(None)?;
        if self.takes('>') {
            Ok(Value::Variant(Box::new(value)))
        } else {
            Err("a variant needs > at its end".to_string())
        }
    }

    fn text(&mut self, expected: Option<&str>) -> Result<Value, String> {
        let text = self.quoted()?;
        match expected {
            Some("o") if is_object_path(&text) => Ok(Value::Path(text)),
            Some("o") => Err(format!("{text:?} is no path of an object")),
            Some("g") if text.len() < 256 && is_signature(&text) => Ok(Value::Signature(text)),
            Some("g") => Err(format!("{text:?} is no type")),
            _ => Ok(Value::Str(text)),
        }
    }

    /// `b'text'`: its bytes and a NUL.
    fn byte_string(&mut self) -> Result<Value, String> {
        self.takes('b');
        let bytes = self.quoted()?.into_bytes();
        Ok(Value::Array("y".to_string(), bytes.into_iter().chain([0]).map(Value::Byte).collect()))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let unfinished = || "a text has no end".to_string();
        let mut chars = self.rest.chars();
        let quote = chars.next().ok_or_else(unfinished)?;
        let mut text = String::new();
        loop {
            let c = chars.next().ok_or_else(unfinished)?;
            if c == quote {
                break;
            }
            let c = match c {
                '\\' => match chars.next().ok_or_else(unfinished)? {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    letter @ ('u' | 'U') => {
                        let digits: String = chars.by_ref().take(if letter == 'u' { 4 } else { 8 }).collect();
                        let number = u32::from_str_radix(&digits, 16).ok();
                        number.and_then(char::from_u32).ok_or_else(|| format!("\\{letter}{digits} is no character"))?
                    }
                    other => other,
                },
                c => c,
            };
            // No text on D-Bus has one.
            if c == '\0' {
                return Err("a text contains a NUL character".to_string());
            }
            text.push(c);
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    fn number(&mut self, expected: Option<&str>) -> Result<Value, String> {
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let bad = || format!("{word:?} is no number of its type");
        let digits = word.strip_prefix(['-', '+']).unwrap_or(&word);
        let is_hex = digits.starts_with("0x") || digits.starts_with("0X");
        let is_double = !is_hex && digits.contains(['.', 'e', 'E']);
        if expected == Some("d") || expected.is_none() && is_double {
            return word.parse().map(Value::Double).map_err(|_| bad());
        }
        let (digits, radix) = match digits {
            hex if is_hex => (hex.get(2..).unwrap_or_default(), 16),
            octal if octal.len() > 1 && octal.starts_with('0') => (octal, 8),
            decimal => (decimal, 10),
        };
        if digits.starts_with(['+', '-']) {
            return Err(bad());
        }
        let magnitude = i128::from_str_radix(digits, radix).map_err(|_| bad())?;
        let number = if word.starts_with('-') { -magnitude } else { magnitude };
        let value = match expected {
            Some("y") => number.try_into().map(Value::Byte),
            Some("n") => number.try_into().map(Value::I16),
            Some("q") => number.try_into().map(Value::U16),
            None | Some("i") => number.try_into().map(Value::I32),
            Some("u") => number.try_into().map(Value::U32),
            Some("x") => number.try_into().map(Value::I64),
            Some("t") => number.try_into().map(Value::U64),
            Some(other) => return Err(format!("a value of type {other} is expected, not a number")),
        };
        value.map_err(|_| bad())
    }
}

fn is_object_path(text: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    text == "/" || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part))
}

fn is_signature(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = split_type(rest) {
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: &str, values: Vec<Value>) -> Value {
        Value::Array(element.to_string(), values)
    }

    #[test]
    fn values_have_the_types_of_their_text() {
        let pair = |a: &str, b: &str| Value::Struct(vec![Value::text(a), Value::text(b)]);
        for (text, value) in [
            ("5", Value::I32(5)),
            (" -5 ", Value::I32(-5)),
            ("0x10", Value::I32(16)),
            ("010", Value::I32(8)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("byte 0xff", Value::Byte(255)),
            ("int64 -1", Value::I64(-1)),
            ("1.5", Value::Double(1.5)),
            ("double 2", Value::Double(2.0)),
            ("true", Value::Bool(true)),
            ("boolean false", Value::Bool(false)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""it's \"so\" \u00e9\n""#, Value::text("it's \"so\" \u{e9}\n")),
            ("string 'x'", Value::text("x")),
            ("objectpath '/a/b'", Value::Path("/a/b".to_string())),
            ("signature 'a(sv)'", Value::Signature("a(sv)".to_string())),
            ("['a', 'b']", array("s", vec![Value::text("a"), Value::text("b")])),
            ("[uint32 1, 2]", array("u", vec![Value::U32(1), Value::U32(2)])),
            ("@as []", array("s", vec![])),
            ("@ay [1, 0x3]", array("y", vec![Value::Byte(1), Value::Byte(3)])),
            (
                "[('/dev/fuse', 'rw'), ('char-*', 'm')]",
                array("(ss)", vec![pair("/dev/fuse", "rw"), pair("char-*", "m")]),
            ),
            (
                "@a(st) [('/dev/sda', 5)]",
                array("(st)", vec![Value::Struct(vec![Value::text("/dev/sda"), Value::U64(5)])]),
            ),
            ("(1,)", Value::Struct(vec![Value::I32(1)])),
            ("<'x'>", Value::Variant(Box::new(Value::text("x")))),
            ("b'a'", array("y", vec![Value::Byte(b'a'), Value::Byte(0)])),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "x",
            "inactive",
            "'x",
            "'x\\",
            "'\\u12'",
            "'\\u0000'",
            "1 2",
            "[1, 'a']",
            "[1",
            "[1 2]",
            "[]",
            "()",
            "(1",
            "(1 2)",
            "<1",
            "@as [1]",
            "@zz 1",
            "@ii 1",
            "@s",
            "uint64 -1",
            "byte 256",
            "2147483648",
            "uint32 1.5",
            "1x",
            "--1",
            "-+1",
            "0x",
            "09",
            "string 5",
            "boolean 1",
            "objectpath 'a'",
            "objectpath '/a/'",
            "signature 'a'",
            "{'a': 1}",
            "uint64",
            "uint64 uint32 5",
            "just nothing",
            "nothing",
            "é",
            "@() ()",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(100)).is_err());
        assert!(parse(&"<".repeat(100_000)).is_err());
    }
}
