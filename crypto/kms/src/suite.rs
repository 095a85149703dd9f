//! What every provider promises, run by each of them.

use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, Purpose, open_value, seal_value};

use crate::provider::{KeyState, Kms};

const CONTEXT: EncryptionContext =
    EncryptionContext { cluster: [1; 16], tenant: [2; 16], purpose: Purpose::Segment { segment: [3; 16] } };

fn same(one: &DataKey, other: &DataKey) -> bool {
    open_value(other, b"", &seal_value(one, b"", b"probe")).is_ok()
}

/// `first` and `second` are two keys of the provider that may be used, `unknown` is none of its keys.
pub(crate) async fn run(kms: &dyn Kms, first: &str, second: &str, unknown: &str) {
    data_key_opens_again_and_no_two_are_equal(kms, first).await;
    another_context_opens_nothing(kms, first).await;
    another_key_opens_nothing(kms, first, second).await;
    altered_blob_opens_nothing(kms, first).await;
    re_encrypted_key_is_the_same_and_the_old_kms_key_is_not_needed(kms, first, second).await;
    unknown_key_is_denied(kms, unknown).await;
    assert_eq!(kms.describe(first).await, Ok(KeyState::Enabled));
}

async fn data_key_opens_again_and_no_two_are_equal(kms: &dyn Kms, key: &str) {
    let (made, blob) = kms.generate_data_key(key, &CONTEXT).await.unwrap();
    let (other, _) = kms.generate_data_key(key, &CONTEXT).await.unwrap();
    assert!(same(&made, &kms.decrypt(key, &blob, &CONTEXT).await.unwrap()));
    assert!(!same(&made, &other));
}

async fn another_context_opens_nothing(kms: &dyn Kms, key: &str) {
    let (_, blob) = kms.generate_data_key(key, &CONTEXT).await.unwrap();
    let foreign = [
        EncryptionContext { tenant: [9; 16], ..CONTEXT },
        EncryptionContext { cluster: [9; 16], ..CONTEXT },
        EncryptionContext { purpose: Purpose::Segment { segment: [9; 16] }, ..CONTEXT },
        EncryptionContext { purpose: Purpose::Index, ..CONTEXT },
    ];
    for context in foreign {
        let refused = kms.decrypt(key, &blob, &context).await.unwrap_err();
        assert!(is_refused(&refused), "{refused}");
    }
}

async fn another_key_opens_nothing(kms: &dyn Kms, first: &str, second: &str) {
    let (_, blob) = kms.generate_data_key(first, &CONTEXT).await.unwrap();
    let refused = kms.decrypt(second, &blob, &CONTEXT).await.unwrap_err();
    assert!(is_refused(&refused), "{refused}");
}

async fn altered_blob_opens_nothing(kms: &dyn Kms, key: &str) {
    let (_, mut blob) = kms.generate_data_key(key, &CONTEXT).await.unwrap();
    if let Some(last) = blob.last_mut() {
        *last ^= 1;
    }
    let refused = kms.decrypt(key, &blob, &CONTEXT).await.unwrap_err();
    assert!(is_refused(&refused), "{refused}");
}

async fn re_encrypted_key_is_the_same_and_the_old_kms_key_is_not_needed(kms: &dyn Kms, first: &str, second: &str) {
    let (made, blob) = kms.generate_data_key(first, &CONTEXT).await.unwrap();
    let moved = kms.re_encrypt(first, &blob, second, &CONTEXT).await.unwrap();
    assert!(same(&made, &kms.decrypt(second, &moved, &CONTEXT).await.unwrap()));
    assert!(kms.decrypt(first, &moved, &CONTEXT).await.is_err());
}

async fn unknown_key_is_denied(kms: &dyn Kms, unknown: &str) {
    let refused = kms.generate_data_key(unknown, &CONTEXT).await.map(drop).unwrap_err();
    assert!(matches!(refused, KeyError::Denied { why: Denial::NotFound, .. }), "{refused}");
}

/// A wrapped key that does not fit is neither a denial, which would wipe, nor an outage, which would wait.
fn is_refused(error: &KeyError) -> bool {
    matches!(error, KeyError::ContextMismatch | KeyError::Corrupt { .. })
}
