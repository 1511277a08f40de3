//! The one error type of corten. It can cross the socket between the two processes, and it is printed once, by `main`.
//!
//! An error reads from the outside in: what was being done for the user, then the system call with its arguments, then
//! the text of the errno, then a hint in parentheses where the errno is famous for misleading people. All lower case.

use nix::errno::Errno;
use std::fmt::Display;

/// What went wrong, as one line for a person, with the errno that caused it where a system call did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    text: String,
    errno: Option<Errno>,
}

/// The result of everything in corten that may fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that no system call reported.
    pub fn new(text: impl Into<String>) -> Error {
        Error { text: text.into(), errno: None }
    }

    /// An error whose text already tells everything, `errno` being kept for those who decide by it.
    pub fn with_errno(text: impl Into<String>, errno: Errno) -> Error {
        Error { text: text.into(), errno: Some(errno) }
    }

    /// The errno of the system call that failed, if one did.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// Puts what was being done in front: `{what}: {error}`.
    pub fn context(mut self, what: impl Display) -> Error {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// Adds a hint in parentheses at the end.
    pub fn hint(mut self, hint: impl Display) -> Error {
        self.text = format!("{} ({hint})", self.text);
        self
    }

    /// The datagram that carries this error over the socket: the errno (0: none), then the text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let errno = self.errno.map_or(0, |errno| errno as i32);
        let mut bytes = errno.to_le_bytes().to_vec();
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// The inverse of [`Error::to_bytes`]; a datagram that is too short gives an error that says so.
    pub fn from_bytes(bytes: &[u8]) -> Error {
        let Some((errno, text)) = bytes.split_first_chunk::<4>() else {
            return Error::new("the container's init sent a message that is too short");
        };
        let errno = match i32::from_le_bytes(*errno) {
            0 => None,
            number => Some(Errno::from_raw(number)),
        };
        Error { text: String::from_utf8_lossy(text).into_owned(), errno }
    }
}

/// The text of an errno as runc and Go print it: lower case, for callers match on it.
pub fn errno_text(errno: Errno) -> String {
    let text = match errno {
        Errno::EPERM => "operation not permitted",
        Errno::ERANGE => "numerical result out of range",
        Errno::UnknownErrno => "unknown error",
        other => other.desc(),
    };
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // "RFS specific error" and the like keep their capitals.
        (Some(_), Some(second)) if second.is_uppercase() => text.to_string(),
        (Some(first), _) => first.to_lowercase().chain(text.chars().skip(1)).collect(),
        (None, _) => String::new(),
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error { text: errno_text(errno), errno: Some(errno) }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(number) => Errno::from_raw(number).into(),
            None => Error::new(error.to_string()),
        }
    }
}

impl From<std::ffi::NulError> for Error {
    fn from(_: std::ffi::NulError) -> Error {
        Error::new("contains a NUL character")
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::new(error.to_string())
    }
}

/// Adds what was being done to the error of a result; the closure runs only when there is one.
pub trait Context<T> {
    /// `{what}: {error}`
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_socket() {
        let error = Error::from(Errno::ENOENT).context("open /x");
        assert_eq!(Error::from_bytes(&error.to_bytes()), error);
        assert_eq!(error.to_string(), "open /x: no such file or directory");
    }

    #[test]
    fn a_short_datagram_is_an_error_too() {
        assert!(Error::from_bytes(&[1, 2]).to_string().contains("too short"));
    }

    #[test]
    fn errno_texts_are_those_that_callers_match_on() {
        assert_eq!(errno_text(Errno::EACCES), "permission denied");
        assert_eq!(errno_text(Errno::EPERM), "operation not permitted");
        assert_eq!(errno_text(Errno::ENOTDIR), "not a directory");
        assert_eq!(errno_text(Errno::EISDIR), "is a directory");
        assert_eq!(errno_text(Errno::ENOSPC), "no space left on device");
    }
}
