//! One connection from its handshake to its end.
//!
//! In: a TCP stream. Out: whole frames to [`dispatch`], answers in the order of their requests.
//!
//! Invariants
//! - No byte is read as Kafka before TLS is up. Until the peer has logged in ([`before`](super::before)) it is answered
//!   about versions and SASL only, one request at a time, in frames of at most 64 KiB.
//! - A frame's claimed length reserves memory only as its bytes arrive, and counts against the tenant's budget.
//! - At most `connection.inflight.max` requests are under way; beyond that the socket is not read.
//! - Every wait has a deadline: handshake, first frame, the rest of a begun frame, idleness, the peer reading answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use schloss_certs::ClientCertificate;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::before::{self, Begun};
use super::listener::Slot;
use crate::broker::Broker;
use crate::config::{ClientAuth, Listener};
use crate::dispatch::{self, Answer, Pieces};
use crate::session::Session;
use crate::telemetry::{ApiLabel, TenantApi, TenantLabel};

/// A begun frame must come at least this fast, after a grace of the handshake time-out.
const FRAME_BYTES_PER_SECOND_MIN: u64 = 32 * 1024;
/// First reservation for a frame; more is reserved as bytes arrive.
const FRAME_RESERVE_BYTES: usize = 256 * 1024;
/// Sealed bytes taken from the socket at once: two whole TLS records. rustls itself asks for 4 KiB at a time.
const SOCKET_READ_BYTES: usize = 33 * 1024;
/// One write under one deadline.
const WRITE_BYTES: usize = 128 * 1024;
/// A tenant's memory budget is counted in units of this, so that a semaphore can hold it.
pub const BUDGET_UNIT_BYTES: usize = 1024;

/// Why a connection ended. The words are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    ClientClosed,
    Drained,
    HandshakeTimeout,
    HandshakeFailed,
    NotIdentified,
    FrameTooLarge,
    FrameTooSlow,
    Idle,
    Malformed,
    PeerNotReading,
    CredentialGone,
    Broken,
}

impl End {
    const fn word(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::Drained => "drained",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::NotIdentified => "not_identified",
            Self::FrameTooLarge => "frame_too_large",
            Self::FrameTooSlow => "frame_too_slow",
            Self::Idle => "idle",
            Self::Malformed => "malformed",
            Self::PeerNotReading => "peer_not_reading",
            Self::CredentialGone => "credential_gone",
            Self::Broken => "broken",
        }
    }

    /// Part of an ordinary life: not counted as a refusal.
    const fn is_ordinary(self) -> bool {
        matches!(self, Self::ClientClosed | Self::Drained | Self::Idle)
    }
}

/// A request's answer on its way out, with what is given back and counted once it left.
struct Outgoing {
    answer: Answer,
    api: &'static str,
    received: Instant,
    _budget: OwnedSemaphorePermit,
}

pub(super) type Tls = TlsStream<BufReader<TcpStream>>;

/// Runs one connection to its end.
pub(super) async fn serve(
    broker: Arc<Broker>,
    tcp: TcpStream,
    peer: SocketAddr,
    listener: Arc<Listener>,
    slot: Slot,
    stop: watch::Receiver<bool>,
) {
    let _slot = slot;
    broker.metrics.connections.inc();
    let end = match run(&broker, tcp, peer, &listener, stop).await {
        Ok(end) | Err(end) => end,
    };
    broker.metrics.connections.dec();
    if !end.is_ordinary() {
        broker.metrics.refused(end.word());
        tracing::debug!(%peer, reason = end.word(), "connection ended");
    }
}

async fn run(
    broker: &Arc<Broker>,
    tcp: TcpStream,
    peer: SocketAddr,
    listener: &Listener,
    mut stop: watch::Receiver<bool>,
) -> Result<End, End> {
    let limits = &broker.config.limits;
    tcp.set_nodelay(true).map_err(|_| End::Broken)?;
    let acceptor = TlsAcceptor::from(broker.tls.kafka_config(match listener.client_auth {
        ClientAuth::None => ClientCertificate::None,
        ClientAuth::Requested => ClientCertificate::Requested,
        ClientAuth::Required => ClientCertificate::Required,
    }));
    let tcp = BufReader::with_capacity(SOCKET_READ_BYTES, tcp);
    let handshake = tokio::time::timeout(limits.handshake, acceptor.accept(tcp));
    let tls = handshake.await.map_err(|_| End::HandshakeTimeout)?.map_err(|_| End::HandshakeFailed)?;
    let door = broker.door(tls.get_ref().1, peer, listener).await.map_err(|_recorded| End::NotIdentified)?;
    let door = Arc::new(door);
    let (reader, mut writer) = tokio::io::split(tls);
    let mut incoming = Incoming { reader, buffer: BytesMut::new(), first: true };
    let (session, begun) = tokio::select! {
        entered = before::enter(broker, &door, &mut incoming, &mut writer) => entered?,
        _ = stop.wait_for(|stop| *stop) => return Ok(End::Drained),
    };
    let session = Arc::new(session);
    let (outgoing, queue) = mpsc::channel(limits.inflight_max);
    let writer = tokio::spawn(write_answers(Arc::clone(broker), Arc::clone(&session), writer, queue));
    let mut abort = AbortOnDrop(Some(writer));
    let end = tokio::select! {
        end = read_frames(broker, &session, &mut incoming, &outgoing, begun) => end,
        _ = stop.wait_for(|stop| *stop) => End::Drained,
        () = broker.login_ends(&session) => End::CredentialGone,
        end = abort.finished() => end,
    };
    drop(outgoing);
    // What was begun is answered before the connection goes; the peer's slowness is bounded by the write deadline.
    if matches!(end, End::Drained | End::ClientClosed | End::Idle | End::Malformed) {
        abort.finished().await;
    }
    Ok(end)
}

/// The writer task dies with its connection.
struct AbortOnDrop(Option<tokio::task::JoinHandle<End>>);

impl AbortOnDrop {
    async fn finished(&mut self) -> End {
        match self.0.as_mut() {
            Some(handle) => {
                let end = handle.await.unwrap_or(End::Broken);
                self.0 = None;
                end
            }
            None => End::Broken,
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
        }
    }
}

pub(super) struct Incoming {
    reader: ReadHalf<Tls>,
    buffer: BytesMut,
    pub(super) first: bool,
}

impl Incoming {
    /// The next frame's length, once its four bytes are there.
    pub(super) async fn length(&mut self, idle: Duration, max: usize) -> Result<usize, End> {
        let fill = self.fill(4);
        tokio::time::timeout(idle, fill).await.map_err(|_| End::Idle)??;
        let prefix = self.buffer.split_to(4);
        let length = <[u8; 4]>::try_from(prefix.as_ref()).map(i32::from_be_bytes).map_err(|_| End::Malformed)?;
        usize::try_from(length).ok().filter(|length| *length <= max).ok_or(End::FrameTooLarge)
    }

    /// The frame's body.
    pub(super) async fn body(&mut self, length: usize, grace: Duration) -> Result<Bytes, End> {
        let rate = u64::try_from(length).unwrap_or(u64::MAX) / FRAME_BYTES_PER_SECOND_MIN;
        let deadline = grace.saturating_add(Duration::from_secs(rate));
        tokio::time::timeout(deadline, self.fill(length)).await.map_err(|_| End::FrameTooSlow)??;
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn fill(&mut self, length: usize) -> Result<(), End> {
        while self.buffer.len() < length {
            let missing = length.saturating_sub(self.buffer.len());
            // SECURITY: memory follows the bytes that came, doubling, never the length that was claimed.
            let step = missing.min(self.buffer.len().max(FRAME_RESERVE_BYTES));
            if self.buffer.capacity().saturating_sub(self.buffer.len()) < step.min(16 * 1024).min(missing) {
                self.buffer.reserve(step);
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(End::ClientClosed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(End::ClientClosed),
                Err(_) => return Err(End::Broken),
            }
        }
        Ok(())
    }
}

async fn read_frames(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    incoming: &mut Incoming,
    outgoing: &mpsc::Sender<Outgoing>,
    begun: Option<Begun>,
) -> End {
    if let Some(begun) = begun
        && let Err(end) = serve_begun(broker, session, incoming, outgoing, begun).await
    {
        return end;
    }
    loop {
        match read_frame(broker, session, incoming, outgoing).await {
            Ok(()) => {}
            Err(end) => return end,
        }
    }
}

/// The request that a login by certificate was for.
async fn serve_begun(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    incoming: &mut Incoming,
    outgoing: &mpsc::Sender<Outgoing>,
    begun: Begun,
) -> Result<(), End> {
    let place = outgoing.reserve().await.map_err(|_| End::PeerNotReading)?;
    let (length, budget, dispatched) = match begun {
        Begun::Request(request, length) => {
            let budget = budget(session, length).await?;
            (length, budget, dispatch::serve(broker, session, *request).await)
        }
        Begun::Frame(length) => {
            let budget = budget(session, length).await?;
            let frame = incoming.body(length, broker.config.limits.handshake).await?;
            (length, budget, dispatch::request(broker, session, frame).await)
        }
    };
    let received = Instant::now();
    broker.metrics.received_bytes.get_or_create(&TenantLabel::of(session.tenant.id)).inc_by(length as u64);
    let dispatched = dispatched.map_err(|_| End::Malformed)?;
    place.send(Outgoing { answer: dispatched.answer, api: dispatched.api, received, _budget: budget });
    Ok(())
}

/// A frame's share of what its tenant may have in memory.
async fn budget(session: &Session, length: usize) -> Result<OwnedSemaphorePermit, End> {
    let units = u32::try_from(length.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
    Arc::clone(&session.tenant.request_memory).acquire_many_owned(units).await.map_err(|_| End::Broken)
}

async fn read_frame(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    incoming: &mut Incoming,
    outgoing: &mpsc::Sender<Outgoing>,
) -> Result<(), End> {
    let limits = &broker.config.limits;
    // Back-pressure by not reading: a place in the queue first, then the next frame.
    let place = outgoing.reserve().await.map_err(|_| End::PeerNotReading)?;
    let patience = if incoming.first { limits.handshake } else { limits.idle };
    let length = incoming.length(patience, limits.request_bytes_max).await?;
    incoming.first = false;
    let budget = budget(session, length).await?;
    let frame = incoming.body(length, limits.handshake).await?;
    let received = Instant::now();
    broker.metrics.received_bytes.get_or_create(&TenantLabel::of(session.tenant.id)).inc_by(length as u64);
    let dispatched = dispatch::request(broker, session, frame).await.map_err(|_| End::Malformed)?;
    place.send(Outgoing { answer: dispatched.answer, api: dispatched.api, received, _budget: budget });
    Ok(())
}

async fn write_answers(
    broker: Arc<Broker>,
    session: Arc<Session>,
    mut writer: WriteHalf<Tls>,
    mut queue: mpsc::Receiver<Outgoing>,
) -> End {
    let tenant = TenantLabel::of(session.tenant.id);
    while let Some(outgoing) = queue.recv().await {
        let is_last = matches!(outgoing.answer, Answer::Last(_));
        let pieces = match outgoing.answer {
            Answer::Silent => None,
            Answer::Now(pieces) | Answer::Last(pieces) => Some(pieces),
            Answer::Later(pending) => pending.await,
            Answer::Close => return End::Malformed,
        };
        let label = TenantApi { tenant: tenant.tenant.clone(), api: outgoing.api };
        broker.metrics.requests.get_or_create(&label).inc();
        broker
            .metrics
            .request_seconds
            .get_or_create(&ApiLabel { api: outgoing.api })
            .observe(outgoing.received.elapsed().as_secs_f64());
        tracing::trace!(connection = %session.id, api = outgoing.api, micros = u64::try_from(outgoing.received.elapsed().as_micros()).unwrap_or(u64::MAX), answered = pieces.is_some(), "request done");
        let Some(pieces) = pieces else { continue };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        broker.metrics.sent_bytes.get_or_create(&tenant).inc_by(bytes as u64);
        if let Err(end) = write_pieces(&mut writer, pieces, broker.config.limits.write).await {
            return end;
        }
        if is_last {
            drop(tokio::time::timeout(broker.config.limits.write, writer.shutdown()).await);
            return End::NotIdentified;
        }
    }
    // All requests answered: say goodbye in TLS, so that the client can tell the end from a cut.
    let goodbye = tokio::time::timeout(broker.config.limits.write, writer.shutdown()).await;
    drop(goodbye);
    End::ClientClosed
}

pub(super) async fn write_pieces<W: AsyncWrite + Unpin>(
    writer: &mut W,
    pieces: Pieces,
    patience: Duration,
) -> Result<(), End> {
    for piece in pieces {
        for chunk in piece.chunks(WRITE_BYTES) {
            let written = tokio::time::timeout(patience, writer.write_all(chunk)).await;
            written.map_err(|_| End::PeerNotReading)?.map_err(|_| End::Broken)?;
        }
    }
    tokio::time::timeout(patience, writer.flush()).await.map_err(|_| End::PeerNotReading)?.map_err(|_| End::Broken)
}
