//! Accepts connections within the limits and hands each to its own task.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection;
use crate::broker::Broker;
use crate::config::Listener;

/// Counts open connections, in all and per address. A slot is given back when dropped.
#[derive(Debug, Default)]
struct Slots {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
}

impl Slots {
    fn take(self: &Arc<Self>, address: IpAddr, all_max: usize, per_ip_max: usize) -> Result<Slot, &'static str> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= all_max {
            return Err("max.connections");
        }
        let count = open.entry(address).or_insert(0);
        if *count >= per_ip_max {
            return Err("max.connections.per.ip");
        }
        *count = count.saturating_add(1);
        Ok(Slot { slots: Arc::clone(self), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Serves all listeners until `stop` turns true, then waits for the connections to finish what they have begun.
pub async fn serve(listeners: Vec<TcpListener>, broker: Arc<Broker>, stop: watch::Receiver<bool>) {
    let slots = Arc::new(Slots::default());
    let mut serving = JoinSet::new();
    for (socket, listener) in listeners.into_iter().zip(&broker.config.listeners) {
        let (broker, listener) = (Arc::clone(&broker), Arc::new(listener.clone()));
        serving.spawn(serve_one(socket, listener, broker, Arc::clone(&slots), stop.clone()));
    }
    while serving.join_next().await.is_some() {}
}

async fn serve_one(
    socket: TcpListener,
    listener: Arc<Listener>,
    broker: Arc<Broker>,
    slots: Arc<Slots>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most often: wait a moment instead of spinning.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let limits = &broker.config.limits;
        let place = slots.take(peer.ip(), limits.connections_max, limits.connections_per_ip_max);
        let place = place.and_then(|slot| broker.login.limits.connect(peer.ip(), broker.clock.now_ms()).map(|()| slot));
        match place {
            Ok(slot) => {
                let (broker, listener, stop) = (Arc::clone(&broker), Arc::clone(&listener), stop.clone());
                connections.spawn(connection::serve(broker, tcp, peer, listener, slot, stop));
            }
            Err(limit) => {
                broker.metrics.refused(limit);
                drop(tcp);
            }
        }
    }
    drop(socket);
    let drained =
        tokio::time::timeout(broker.config.limits.drain, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(open = connections.len(), "connections were cut at the end of `shutdown.drain.timeout.ms`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_more_than_its_share_and_gives_back_what_it_took() {
        let slots = Arc::new(Slots::default());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let held = slots.take(one, 10, 1).unwrap();
        assert_eq!(slots.take(one, 10, 1).unwrap_err(), "max.connections.per.ip");
        assert!(slots.take(other, 10, 1).is_ok());
        drop(held);
        assert!(slots.take(one, 10, 1).is_ok());
    }
}
