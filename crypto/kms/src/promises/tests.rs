use super::*;

const ASKED: Questions<'static> = Questions {
    key: "first",
    other: Some("second"),
    unknown: Some("unknown"),
    cluster: [1; 16],
    tenant: [2; 16],
    call_timeout: Duration::from_secs(10),
};

/// For providers' own tests: `kms` has the keys `first` and `second`, and no `unknown`; every promise is kept to the letter.
pub(crate) async fn all_kept(kms: &dyn Kms) {
    let answers = ask(kms, &ASKED).await;
    assert_eq!(answers.iter().map(|answer| answer.promise).collect::<Vec<_>>(), Promise::ALL);
    for answer in answers {
        assert_eq!(answer.outcome, Outcome::Kept, "{}", answer.promise.text());
    }
}

/// Which promise a double breaks.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    SameKeyTwice,
    AnotherKeyOpened,
    AnyContext,
    AnyBlob,
    AnyKey,
    UnknownKey,
    OldKeyStillOpens,
    DeniesForeignBlobs,
}

/// Keeps every key in the open: the blob is context, KMS key and data key, one after the other.
struct Liar(Lie);

fn text_of(key_ref: &str, context: &EncryptionContext) -> Vec<u8> {
    [key_ref.as_bytes(), b"|", &context.to_bytes()].concat()
}

#[async_trait::async_trait]
impl Kms for Liar {
    fn provider(&self) -> &'static str {
        "liar"
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        if key_ref == "unknown" && self.0 != Lie::UnknownKey {
            return Err(KeyError::Denied { key_ref: key_ref.into(), why: Denial::NotFound });
        }
        let mut plain = if self.0 == Lie::SameKeyTwice { [7; 32] } else { random_array() };
        let blob = [&plain[..], &text_of(key_ref, context)].concat();
        Ok((DataKey::take(&mut plain), blob))
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        let (plain, rest) = blob.split_first_chunk::<32>().unwrap();
        let mut plain = if self.0 == Lie::AnotherKeyOpened { [8; 32] } else { *plain };
        let (from, bound) = rest.split_at(rest.iter().position(|byte| *byte == b'|').unwrap());
        let right_key = from == key_ref.as_bytes() || self.0 == Lie::AnyKey || self.0 == Lie::OldKeyStillOpens;
        let right_context = bound.get(1..).unwrap() == context.to_bytes();
        // The last byte of a segment's context is one of its id: an altered blob is another context here.
        let right_context = right_context || self.0 == Lie::AnyContext || self.0 == Lie::AnyBlob;
        match right_key && right_context {
            true => Ok(DataKey::take(&mut plain)),
            false if self.0 == Lie::DeniesForeignBlobs => {
                Err(KeyError::Denied { key_ref: key_ref.into(), why: Denial::AccessDenied })
            }
            false => Err(KeyError::ContextMismatch),
        }
    }

    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        self.decrypt(from, blob, context).await?;
        Ok([blob.first_chunk::<32>().unwrap(), &text_of(to, context)[..]].concat())
    }

    async fn describe(&self, _: &str) -> Result<KeyState, KeyError> {
        Ok(KeyState::Enabled)
    }
}

async fn not_kept(lie: Lie) -> Vec<(Promise, Outcome)> {
    let answers = ask(&Liar(lie), &ASKED).await.into_iter();
    answers.filter(|answer| answer.outcome != Outcome::Kept).map(|answer| (answer.promise, answer.outcome)).collect()
}

#[tokio::test]
async fn every_broken_promise_is_told_by_its_name() {
    for (lie, promise) in [
        (Lie::SameKeyTwice, Promise::NeverTwice),
        (Lie::AnotherKeyOpened, Promise::OpensAgain),
        (Lie::AnyContext, Promise::OtherContext),
        (Lie::AnyBlob, Promise::AlteredBlob),
        (Lie::AnyKey, Promise::OtherKey),
        (Lie::UnknownKey, Promise::UnknownKey),
        (Lie::OldKeyStillOpens, Promise::LeavesTheOldKey),
    ] {
        let told = not_kept(lie).await;
        assert!(told.iter().any(|(name, how)| *name == promise && matches!(how, Outcome::Broken(_))), "{told:?}");
    }
}

#[tokio::test]
async fn policy_that_answers_before_the_key_does_is_told_and_is_no_breach() {
    let told = not_kept(Lie::DeniesForeignBlobs).await;
    assert!(told.iter().all(|(_, how)| *how == Outcome::KeptByPolicy) && told.len() >= 3, "{told:?}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_so_and_not_passed() {
    let refused = ask(&Liar(Lie::AnyKey), &Questions { key: "unknown", ..ASKED }).await;
    let outcome = |promise| refused.iter().find(|answer| answer.promise == promise).map(|answer| &answer.outcome);
    assert!(matches!(outcome(Promise::Generates), Some(Outcome::Refused(_))), "{refused:?}");
    for promise in [Promise::OpensAgain, Promise::OtherContext, Promise::AlteredBlob, Promise::WrapsAnew] {
        assert_eq!(outcome(promise), Some(&Outcome::NotAsked), "{promise:?}");
    }
}
