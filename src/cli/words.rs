//! The words of a command line by the rules of Go programs, for that is what runc's callers write: `-flag` like `--flag`,
//! a value in the next word whatever that looks like, `--flag=false`, flags after the arguments, the last of several wins.
//!
//! They are sorted by the definition that clap has of the command, and clap then gets them in one plain form. So what is
//! wrong with a flag is found here, and told in Go's words: engines probe for some of them.

use clap::{Arg, ArgAction, ValueHint};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A flag that was given.
#[derive(Debug)]
struct Flag {
    /// Its long name.
    name: String,
    /// The name that the caller used, which may be the short one.
    typed: String,
    /// None for a flag that takes no value.
    value: Option<OsString>,
}

/// The words after the program's name, or after a command's.
#[derive(Debug, Default)]
pub struct Words {
    flags: Vec<Flag>,
    pub arguments: Vec<OsString>,
    /// Whether help was asked for.
    pub help: bool,
}

impl Words {
    /// Sorts words into flags and arguments; an error says what is wrong with a flag. With `first_ends`, the first
    /// argument ends the flags, because what follows it is meant for somebody else.
    pub fn sort(definition: &clap::Command, words: &[OsString], first_ends: bool) -> Result<Words, String> {
        let mut sorted = Words::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--" => break,
                [b'-', _, ..] => sorted.flag(definition, word, &mut words)?,
                _ => {
                    sorted.arguments.push(word.clone());
                    if first_ends {
                        break;
                    }
                }
            }
        }
        sorted.arguments.extend(words.cloned());
        Ok(sorted)
    }

    fn flag<'w>(
        &mut self,
        definition: &clap::Command,
        word: &OsStr,
        rest: &mut impl Iterator<Item = &'w OsString>,
    ) -> Result<(), String> {
        let bytes = word.as_bytes();
        let mut parts =
            bytes.strip_prefix(b"--").unwrap_or(bytes.get(1..).unwrap_or_default()).splitn(2, |&b| b == b'=');
        let typed = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
        if typed.is_empty() || typed.starts_with('-') {
            return Err(format!("bad flag syntax: {}", word.display()));
        }
        if matches!(typed.as_str(), "help" | "h") {
            self.help = true;
            return Ok(());
        }
        let (argument, name) =
            find(definition, &typed).ok_or_else(|| format!("flag provided but not defined: -{typed}"))?;
        if !matches!(argument.get_action(), ArgAction::Append) {
            self.flags.retain(|flag| flag.name != name);
        }
        if argument.get_action().takes_values() {
            let value = value.or_else(|| rest.next().cloned());
            let value = value.ok_or_else(|| format!("flag needs an argument: -{typed}"))?;
            // An empty path is none.
            if !value.is_empty() || argument.get_value_hint() != ValueHint::AnyPath {
                self.flags.push(Flag { name, typed, value: Some(value) });
            }
        } else if value.map_or(Ok(true), |value| parse_bool(&value, &typed))? {
            self.flags.push(Flag { name, typed, value: None });
        }
        Ok(())
    }

    /// Whether a flag was given.
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.name == name)
    }

    /// The name that the caller used for a flag which clap calls `--name <VALUE>`.
    pub fn flag_of(&self, argument: &str) -> Option<&str> {
        let name = argument.strip_prefix("--")?.split(' ').next()?;
        self.flags.iter().find(|flag| flag.name == name).map(|flag| flag.typed.as_str())
    }

    /// The form that clap gets: flags with their values, then `--` and the arguments.
    pub fn plain(&self) -> impl Iterator<Item = OsString> {
        let flags = self.flags.iter().map(|flag| {
            let mut word = OsString::from(format!("--{}", flag.name));
            if let Some(value) = &flag.value {
                word.push("=");
                word.push(value);
            }
            word
        });
        let separator = (!self.arguments.is_empty()).then(|| OsString::from("--"));
        flags.chain(separator).chain(self.arguments.iter().cloned())
    }
}

/// A flag by its long or short name, and its long name, which all of them have.
fn find<'a>(definition: &'a clap::Command, typed: &str) -> Option<(&'a Arg, String)> {
    let mut arguments = definition.get_arguments();
    arguments.find_map(|argument| {
        let long = argument.get_long()?;
        let short = argument.get_short().is_some_and(|short| typed.chars().eq([short]));
        (long == typed || short).then(|| (argument, long.to_string()))
    })
}

fn parse_bool(value: &OsStr, typed: &str) -> Result<bool, String> {
    let text = value.to_string_lossy();
    boolean(&text).ok_or_else(|| format!("invalid boolean value {text:?} for -{typed}: parse error"))
}

/// A truth value, as Go reads one.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number that is not negative, as Go reads one: decimal, or with a prefix as in source code; `_` may part digits.
pub fn number(text: &str) -> Result<u32, &'static str> {
    let digits = text.replace('_', "").to_ascii_lowercase();
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (digits.get(2..), 16),
        [b'0', b'b', ..] => (digits.get(2..), 2),
        [b'0', b'o', ..] => (digits.get(2..), 8),
        [b'0', _, ..] => (digits.get(1..), 8),
        _ => (digits.get(..), 10),
    };
    u32::from_str_radix(digits.unwrap_or_default(), radix).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => "value out of range",
        _ => "parse error",
    })
}

/// A user or group by number, strictly: nothing but decimal digits, and not the number that is nobody's (rule R17).
pub fn decimal_id(text: &str) -> Option<u32> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_decimal && *id != u32::MAX)
}

/// A [`decimal_id`], or what Go says of a text that is none.
pub fn id(text: &str) -> Result<u32, String> {
    decimal_id(text).ok_or_else(|| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::{id, number};

    #[test]
    fn groups_are_plain_decimal() {
        assert_eq!(id("2000"), Ok(2000));
        for text in ["", "x", "-1", "+1", " 1", "0x1", "1_0", "4294967295", "4294967296"] {
            assert!(id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, value) in
            [("0", 0), ("12", 12), ("+3", 3), ("0x1F", 31), ("010", 8), ("0o10", 8), ("0b11", 3), ("1_0", 10)]
        {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        for text in ["", "x", "1x", "0x", "-1", "09", " 1", "++1"] {
            assert_eq!(number(text), Err("parse error"), "{text}");
        }
        assert_eq!(number("4294967296"), Err("value out of range"));
    }
}
