//! What a command tells when it cannot go on: what happened, what to do, and a number with a page in the manual.

use std::fmt;

/// The numbered kinds of failure; `broker/manual/errors.md` has a chapter for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The config file has mistakes.
    Config = 101,
    /// A certificate, key or CA cannot be used.
    Certificate = 102,
    /// The organisation's files have mistakes.
    Organisation = 103,
    /// The keyring cannot be opened.
    Keyring = 104,
    /// The key service refuses or cannot be reached.
    Kms = 105,
    /// The data folder cannot be used.
    DataFolder = 201,
    /// The data folder is in use by another process.
    Locked = 202,
    /// The data folder was written by a newer release.
    NewerFormat = 203,
    /// The write-ahead log or a segment cannot be read.
    Storage = 204,
    /// A backup cannot be made, used or trusted.
    Backup = 205,
    /// The manifest is missing, or its rows are not what was written.
    Manifest = 206,
    /// The data folder was written by an earlier release, in a way that this one does not go on from.
    OlderFormat = 207,
    /// A listener cannot be opened.
    Listener = 301,
    /// The audit log does not verify.
    AuditBroken = 401,
    /// The audit log cannot be read.
    AuditUnreadable = 402,
    /// The running broker cannot be reached or answered otherwise than it should.
    Broker = 501,
    /// The running broker refused a command; its own words say why.
    Refused = 502,
    /// A file cannot be read or written.
    File = 601,
    /// The command was called with words that do not fit.
    Usage = 602,
}

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    number: Number,
    what: String,
    next: String,
}

impl Failure {
    /// What happened and what to do next.
    pub fn new(number: Number, what: impl fmt::Display, next: impl Into<String>) -> Self {
        Self { number, what: what.to_string(), next: next.into() }
    }

    /// The exit status: 2 for a wrong call, else 1.
    #[must_use]
    pub fn exit(&self) -> u8 {
        if self.number == Number::Usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        write!(f, "next:  {} (SCH-{:03})", self.next, self.number as u16)
    }
}

impl std::error::Error for Failure {}
