//! Names as tenants write them, checked once at the door.

use std::borrow::Borrow;
use std::fmt;

use crate::limits;

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Above the limit of its kind.
    #[error("the name is longer than {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// Other than ASCII letters, digits, `.`, `_` and `-`.
    #[error("the name has a character other than ASCII letters, digits, `.`, `_` and `-`")]
    IllegalCharacter,
    /// `.` and `..`, which Kafka refuses.
    #[error("`.` and `..` are not names")]
    Dots,
}

/// A topic's name as its tenant sees it. Holding one means it was checked by Kafka's rule:
/// 1 to 249 bytes of `[a-zA-Z0-9._-]`, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Box<str>);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] when Kafka would refuse it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > limits::TOPIC_NAME_BYTES_MAX {
            return Err(NameError::TooLong { max: limits::TOPIC_NAME_BYTES_MAX });
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(NameError::IllegalCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A consumer group's id: 1 to 32767 bytes of any text, as Kafka takes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Box<str>);

impl GroupId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`NameError::Empty`] or [`NameError::TooLong`].
    pub fn new(id: &str) -> Result<Self, NameError> {
        if id.is_empty() {
            return Err(NameError::Empty);
        }
        if id.len() > limits::GROUP_ID_BYTES_MAX {
            return Err(NameError::TooLong { max: limits::GROUP_ID_BYTES_MAX });
        }
        Ok(Self(id.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// SECURITY: names of tenants never reach a log line by accident; Debug tells only the length.
impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicName({} bytes)", self.0.len())
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({} bytes)", self.0.len())
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_name_longer_than_249_bytes_is_refused() {
        assert!(TopicName::new(&"a".repeat(249)).is_ok());
        assert_eq!(TopicName::new(&"a".repeat(250)), Err(NameError::TooLong { max: 249 }));
    }

    #[test]
    fn topic_name_with_foreign_characters_is_refused() {
        for name in ["a b", "a/b", "ä", "a\0", "a:b", "*"] {
            assert_eq!(TopicName::new(name), Err(NameError::IllegalCharacter), "{name:?}");
        }
        assert_eq!(TopicName::new(".."), Err(NameError::Dots));
        assert_eq!(TopicName::new(""), Err(NameError::Empty));
    }

    #[test]
    fn debug_of_a_name_does_not_show_it() {
        assert_eq!(format!("{:?}", TopicName::new("orders").unwrap()), "TopicName(6 bytes)");
    }
}
