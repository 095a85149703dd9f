//! SaslHandshake (17): the client chooses a mechanism (KIP-43), for its first login or to prove itself again (KIP-368).

use kafka_protocol::messages::SaslHandshakeResponse;
use kafka_protocol::protocol::StrBytes;
use schloss_authn::sasl::{Mechanism, Refusal};
use schloss_core::ErrorCode;

use crate::login::exchange::Exchange;

/// Answers one request; `false` when the connection ends behind the answer.
pub fn handle(
    exchange: &mut Exchange,
    mechanism: &str,
    version: i16,
    enabled: &[Mechanism],
) -> (SaslHandshakeResponse, bool) {
    let mut response = SaslHandshakeResponse::default();
    response.mechanisms = enabled.iter().map(|known| StrBytes::from_static_str(known.name())).collect();
    let refused = exchange.dialogue.handshake(mechanism, version, enabled).err();
    response.error_code = match refused {
        None => ErrorCode::NONE,
        Some(Refusal::UnsupportedMechanism) => ErrorCode::UNSUPPORTED_SASL_MECHANISM,
        Some(Refusal::IllegalState | Refusal::MechanismChanged) => ErrorCode::ILLEGAL_SASL_STATE,
    }
    .code();
    (response, refused.is_none())
}
