//! What every provider promises, as questions with answers: each provider's tests ask them, and so does an operator of his own KMS.
//!
//! In: a provider and two of its keys. Out: one [`Answer`] for each question, in order. Nothing is stored: data keys made here seal
//! nothing and are dropped.

use std::time::Duration;

use schloss_crypto::{
    DataKey, Denial, EncryptionContext, KeyError, Outage, Purpose, open_value, random_array, seal_value,
};

use crate::key_use::KeyOperation;
use crate::provider::{KeyState, Kms};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The key says that it is enabled.
    Enabled,
    /// A data key is made.
    Generates,
    /// Two data keys are two.
    NeverTwice,
    /// A wrapped data key opens again, to the same.
    OpensAgain,
    /// Under another encryption context nothing opens.
    OtherContext,
    /// An altered blob does not open.
    AlteredBlob,
    /// A key that is not there is refused as such.
    UnknownKey,
    /// Another KMS key does not open the blob.
    OtherKey,
    /// A blob wrapped anew under another key opens there, to the same.
    WrapsAnew,
    /// And the key it came from is not needed any more.
    LeavesTheOldKey,
}

impl Promise {
    /// All, in the order they are asked.
    pub const ALL: [Self; 10] = [
        Self::Enabled,
        Self::Generates,
        Self::NeverTwice,
        Self::OpensAgain,
        Self::OtherContext,
        Self::AlteredBlob,
        Self::UnknownKey,
        Self::OtherKey,
        Self::WrapsAnew,
        Self::LeavesTheOldKey,
    ];

    /// One word for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Generates => "generates",
            Self::NeverTwice => "never-twice",
            Self::OpensAgain => "opens-again",
            Self::OtherContext => "other-context",
            Self::AlteredBlob => "altered-blob",
            Self::UnknownKey => "unknown-key",
            Self::OtherKey => "other-key",
            Self::WrapsAnew => "wraps-anew",
            Self::LeavesTheOldKey => "leaves-the-old-key",
        }
    }

    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Enabled => "the key is enabled",
            Self::Generates => "a data key is made",
            Self::NeverTwice => "the next data key is another one",
            Self::OpensAgain => "the wrapped data key opens again",
            Self::OtherContext => "it stays shut under another encryption context",
            Self::AlteredBlob => "it stays shut when a bit of it is changed",
            Self::UnknownKey => "a key that does not exist is refused",
            Self::OtherKey => "it stays shut for another KMS key",
            Self::WrapsAnew => "wrapped anew under the other key it opens there",
            Self::LeavesTheOldKey => "and the key it came from opens it no more",
        }
    }

    /// What is asked of the KMS.
    #[must_use]
    pub const fn operation(self) -> KeyOperation {
        match self {
            Self::Enabled => KeyOperation::Describe,
            Self::Generates | Self::NeverTwice | Self::UnknownKey => KeyOperation::GenerateDataKey,
            Self::OpensAgain | Self::OtherContext | Self::AlteredBlob | Self::OtherKey | Self::LeavesTheOldKey => {
                KeyOperation::Decrypt
            }
            Self::WrapsAnew => KeyOperation::ReEncrypt,
        }
    }
}

/// How a question was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As promised.
    Kept,
    /// Refused as it must be, but with the words of a policy: one that names contexts or keys answers first.
    KeptByPolicy,
    /// Not allowed, and the broker does without: it learns a key's state by using it.
    NotNeeded,
    /// The KMS refused, or gave no answer.
    Refused(KeyError),
    /// The KMS did what it must not do, or not what it must: it may not be used.
    Broken(&'static str),
    /// Could not be asked, because an earlier question was not answered.
    NotAsked,
}

/// One question's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question.
    pub promise: Promise,
    /// Its answer.
    pub outcome: Outcome,
}

/// Whom to ask about what.
#[derive(Clone, Copy, Debug)]
pub struct Questions<'q> {
    /// The key.
    pub key: &'q str,
    /// Another key of the same owner to wrap anew under; without it those questions are not among the answers.
    pub other: Option<&'q str>,
    /// A key that does not exist; without it that question is not among the answers.
    pub unknown: Option<&'q str>,
    /// Whose data keys: their context names the installation and the tenant, as the broker's do.
    pub cluster: [u8; 16],
    /// The tenant's account number, big-endian; zero is the installation.
    pub tenant: [u8; 16],
    /// Deadline of one call.
    pub call_timeout: Duration,
}

/// Asks everything once.
pub async fn ask(kms: &dyn Kms, questions: &Questions<'_>) -> Vec<Answer> {
    let Questions { key, cluster, tenant, .. } = *questions;
    let context = EncryptionContext { cluster, tenant, purpose: Purpose::Segment { segment: random_array() } };
    let mut round = Round { kms, questions, context, answers: Vec::new() };
    round.state().await;
    let made = round.generates().await;
    let mut opened = false;
    if let Some((data_key, blob)) = &made {
        let again = round.within(kms.decrypt(key, blob, &context)).await;
        opened = again.is_ok();
        round.note(Promise::OpensAgain, equal(data_key, again));
    } else {
        round.put(Promise::OpensAgain, Outcome::NotAsked);
    }
    // Refusals say something only of a blob that opens when it should.
    let blob = made.as_ref().map(|(_, blob)| blob).filter(|_| opened);
    round.other_contexts(blob).await;
    let altered = blob.map(|blob| altered(blob));
    round.shut(Promise::AlteredBlob, key, altered.as_ref(), &context).await;
    round.unknown().await;
    round.other(made.as_ref().filter(|_| opened)).await;
    round.answers
}

struct Round<'r> {
    kms: &'r dyn Kms,
    questions: &'r Questions<'r>,
    context: EncryptionContext,
    answers: Vec<Answer>,
}

type Made = (DataKey, Vec<u8>);

impl Round<'_> {
    fn put(&mut self, promise: Promise, outcome: Outcome) {
        self.answers.push(Answer { promise, outcome });
    }

    fn note(&mut self, promise: Promise, result: Result<(), Outcome>) {
        self.put(promise, result.err().unwrap_or(Outcome::Kept));
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, KeyError>>) -> Result<T, KeyError> {
        let late = || KeyError::Unreachable { key_ref: self.questions.key.to_owned(), why: Outage::NoAnswer };
        tokio::time::timeout(self.questions.call_timeout, call).await.unwrap_or_else(|_| Err(late()))
    }

    async fn state(&mut self) {
        let key = self.questions.key;
        let denied = |why| Outcome::Refused(KeyError::Denied { key_ref: key.to_owned(), why });
        let outcome = match self.within(self.kms.describe(key)).await {
            Ok(KeyState::Enabled) => Outcome::Kept,
            Ok(KeyState::Disabled) => denied(Denial::Disabled),
            Ok(KeyState::PendingDeletion) => denied(Denial::PendingDeletion),
            Err(KeyError::Denied { why: Denial::AccessDenied, .. }) => Outcome::NotNeeded,
            Err(error) => Outcome::Refused(error),
        };
        self.put(Promise::Enabled, outcome);
    }

    async fn generates(&mut self) -> Option<Made> {
        let (kms, key, context) = (self.kms, self.questions.key, self.context);
        let made = self.within(kms.generate_data_key(key, &context)).await;
        let (made, outcome) = match made {
            Ok(made) => (Some(made), Outcome::Kept),
            Err(error) => (None, Outcome::Refused(error)),
        };
        self.put(Promise::Generates, outcome);
        let Some(first) = &made else {
            self.put(Promise::NeverTwice, Outcome::NotAsked);
            return None;
        };
        let second = self.within(kms.generate_data_key(key, &context)).await;
        let result = match second {
            Ok((second, blob)) if same(&first.0, &second) || first.1 == blob => {
                Err(Outcome::Broken("the same data key came twice"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(Outcome::Refused(error)),
        };
        self.note(Promise::NeverTwice, result);
        made
    }

    /// The blob must not open for this key and context.
    async fn stays_shut(&self, key: &str, blob: &[u8], context: &EncryptionContext) -> Outcome {
        match self.within(self.kms.decrypt(key, blob, context)).await {
            Ok(_) => Outcome::Broken("it opened"),
            // A wrapped key that does not fit is neither a denial, which would wipe, nor an outage, which would wait.
            Err(KeyError::ContextMismatch | KeyError::Corrupt { .. }) => Outcome::Kept,
            Err(KeyError::Denied { why: Denial::AccessDenied, .. }) => Outcome::KeptByPolicy,
            Err(error) => Outcome::Refused(error),
        }
    }

    async fn shut(&mut self, promise: Promise, key: &str, blob: Option<&Vec<u8>>, context: &EncryptionContext) {
        let outcome = match blob {
            Some(blob) => self.stays_shut(key, blob, context).await,
            None => Outcome::NotAsked,
        };
        self.put(promise, outcome);
    }

    /// The worst of four answers counts.
    async fn other_contexts(&mut self, blob: Option<&Vec<u8>>) {
        let Some(blob) = blob else {
            self.put(Promise::OtherContext, Outcome::NotAsked);
            return;
        };
        let EncryptionContext { mut cluster, mut tenant, .. } = self.context;
        for byte in [&mut cluster, &mut tenant].into_iter().filter_map(|id| id.last_mut()) {
            *byte ^= 1;
        }
        let foreign = [
            EncryptionContext { tenant, ..self.context },
            EncryptionContext { cluster, ..self.context },
            EncryptionContext { purpose: Purpose::Segment { segment: random_array() }, ..self.context },
            EncryptionContext { purpose: Purpose::Index, ..self.context },
        ];
        let mut worst = Outcome::Kept;
        for context in foreign {
            let outcome = self.stays_shut(self.questions.key, blob, &context).await;
            match outcome {
                Outcome::Kept => {}
                Outcome::KeptByPolicy if worst != Outcome::Kept => {}
                Outcome::KeptByPolicy => worst = outcome,
                _ => {
                    worst = outcome;
                    break;
                }
            }
        }
        self.put(Promise::OtherContext, worst);
    }

    async fn unknown(&mut self) {
        let Some(unknown) = self.questions.unknown else { return };
        let outcome = match self.within(self.kms.generate_data_key(unknown, &self.context)).await {
            Ok(_) => Outcome::Broken("it made a data key"),
            Err(KeyError::Denied { why: Denial::NotFound, .. }) => Outcome::Kept,
            Err(KeyError::Denied { why: Denial::AccessDenied, .. }) => Outcome::KeptByPolicy,
            Err(error) => Outcome::Refused(error),
        };
        self.put(Promise::UnknownKey, outcome);
    }

    async fn other(&mut self, made: Option<&Made>) {
        let Some(other) = self.questions.other else { return };
        let (kms, key, context) = (self.kms, self.questions.key, self.context);
        self.shut(Promise::OtherKey, other, made.map(|(_, blob)| blob), &context).await;
        let Some((data_key, blob)) = made else {
            self.put(Promise::WrapsAnew, Outcome::NotAsked);
            self.put(Promise::LeavesTheOldKey, Outcome::NotAsked);
            return;
        };
        let moved = match self.within(kms.re_encrypt(key, blob, other, &context)).await {
            Ok(moved) => moved,
            Err(error) => {
                self.put(Promise::WrapsAnew, Outcome::Refused(error));
                self.put(Promise::LeavesTheOldKey, Outcome::NotAsked);
                return;
            }
        };
        let opened = self.within(kms.decrypt(other, &moved, &context)).await;
        self.note(Promise::WrapsAnew, equal(data_key, opened));
        self.shut(Promise::LeavesTheOldKey, key, Some(&moved), &context).await;
    }
}

fn same(one: &DataKey, other: &DataKey) -> bool {
    open_value(other, b"", &seal_value(one, b"", b"probe")).is_ok()
}

fn equal(wanted: &DataKey, opened: Result<DataKey, KeyError>) -> Result<(), Outcome> {
    match opened {
        Ok(opened) if same(wanted, &opened) => Ok(()),
        Ok(_) => Err(Outcome::Broken("it opened to another key")),
        Err(error) => Err(Outcome::Refused(error)),
    }
}

fn altered(blob: &[u8]) -> Vec<u8> {
    let mut altered = blob.to_vec();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    altered
}

#[cfg(test)]
pub(crate) mod tests;
