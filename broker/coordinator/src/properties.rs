//! Random histories: whatever clients do and whenever, the promises hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use schloss_core::TopicId;

use crate::api::*;
use crate::group::{Phase, Waiting};
use crate::histories::{LIMITS, World, subscription};

const GROUPS: [&str; 2] = ["one", "two"];
const INSTANCES: [&str; 2] = ["i", "j"];
/// No rebalance of these histories may wait longer: new members' patience plus sessions and timeouts of all.
const ANSWER_MS_MAX: i64 = 20 * 60 * 1000;

#[derive(Clone, Debug)]
enum Step {
    Join { group: usize, who: usize, instance: Option<usize>, known: bool, topic: u8, rebalance_ms: i32 },
    Sync { group: usize, who: usize, stale: bool },
    Beat { group: usize, who: usize },
    Leave { group: usize, who: usize },
    Commit { group: usize, who: Option<usize> },
    HangUp { nth: usize },
    Delete { group: usize },
    Pass { ms: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS.len();
    let who = 0_usize..8;
    prop_oneof![
        8 => (group.clone(), who.clone(), proptest::option::weighted(0.3, 0..INSTANCES.len()), any::<bool>(), 0_u8..2, 0_i32..30_000)
            .prop_map(|(group, who, instance, known, topic, rebalance_ms)| Step::Join { group, who, instance, known, topic, rebalance_ms }),
        8 => (group.clone(), who.clone(), proptest::bool::weighted(0.1)).prop_map(|(group, who, stale)| Step::Sync { group, who, stale }),
        4 => (group.clone(), who.clone()).prop_map(|(group, who)| Step::Beat { group, who }),
        2 => (group.clone(), who.clone()).prop_map(|(group, who)| Step::Leave { group, who }),
        2 => (group.clone(), proptest::option::of(who)).prop_map(|(group, who)| Step::Commit { group, who }),
        1 => (0_usize..8).prop_map(|nth| Step::HangUp { nth }),
        1 => group.prop_map(|group| Step::Delete { group }),
        6 => (0_i64..12_000).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// What the clients of a history know.
#[derive(Default)]
struct Clients {
    /// Per group the ids ever told to a client.
    ids: BTreeMap<&'static str, Vec<String>>,
    /// Open requests: since when, and of which group.
    open: BTreeMap<ReplyToken, (i64, &'static str)>,
    /// Who was told to lead a generation.
    leaders: BTreeMap<(&'static str, i32), String>,
    generations: BTreeMap<&'static str, i32>,
}

impl Clients {
    fn id(&self, group: &'static str, who: usize) -> String {
        let ids = self.ids.get(group).map(Vec::as_slice).unwrap_or_default();
        if ids.is_empty() { String::new() } else { ids[ids.len() - 1 - who % ids.len()].clone() }
    }

    fn read(&mut self, world: &mut World) {
        for (token, reply) in std::mem::take(&mut world.replies) {
            let (_, group) = self.open.remove(&token).expect("an answer to an open request");
            let Reply::Join(reply) = reply else { continue };
            if !reply.member_id.is_empty() {
                self.ids.entry(group).or_default().push(reply.member_id.clone());
            }
            if reply.error.is_none() && reply.leader == reply.member_id && !reply.skip_assignment {
                let leader = self.leaders.entry((group, reply.generation)).or_insert_with(|| reply.member_id.clone());
                assert_eq!(*leader, reply.member_id, "one leader per generation");
            }
        }
    }
}

fn run(world: &mut World, clients: &mut Clients, step: &Step) {
    let now = world.now_ms;
    match *step {
        Step::Join { group, who, instance, known, topic, rebalance_ms } => {
            let group = GROUPS[group];
            let id = if known { clients.id(group, who) } else { String::new() };
            let token = world.token();
            clients.open.insert(token, (now, group));
            let request = JoinRequest {
                group,
                member_id: &id,
                group_instance_id: instance.map(|instance| INSTANCES[instance]),
                client_id: "c",
                client_host: "h",
                session_timeout_ms: 5000,
                rebalance_timeout_ms: rebalance_ms,
                protocol_type: "consumer",
                protocols: vec![("range".into(), subscription(if topic == 0 { "t" } else { "u" }))],
                require_known_member_id: who % 2 == 0,
                supports_skip_assignment: true,
            };
            let effects = world.table.join(token, request, now, u128::from(token.0));
            world.take(effects);
        }
        Step::Sync { group, who, stale } => {
            let group = GROUPS[group];
            let id = clients.id(group, who);
            let generation = world.table.groups().get(group).map_or(0, |group| group.generation) - i32::from(stale);
            let token = world.token();
            clients.open.insert(token, (now, group));
            let request = SyncRequest {
                group,
                generation,
                member_id: &id,
                group_instance_id: None,
                protocol_type: None,
                protocol: None,
                assignments: vec![(id.clone(), Bytes::from_static(b"share"))],
            };
            let effects = world.table.sync(token, request, now);
            world.take(effects);
        }
        Step::Beat { group, who } => {
            let id = clients.id(GROUPS[group], who);
            let generation = world.table.groups().get(GROUPS[group]).map_or(0, |group| group.generation);
            let request = HeartbeatRequest { group: GROUPS[group], generation, member_id: &id, group_instance_id: None };
            let _ = world.table.heartbeat(&request, now);
        }
        Step::Leave { group, who } => {
            let leaver = MemberIdentity { member_id: clients.id(GROUPS[group], who), group_instance_id: None };
            let (_, effects) = world.table.leave(GROUPS[group], &[leaver], now);
            world.take(effects);
        }
        Step::Commit { group, who } => {
            let id = who.map_or_else(String::new, |who| clients.id(GROUPS[group], who));
            let current = world.table.groups().get(GROUPS[group]).map_or(0, |group| group.generation);
            let offset = OffsetToCommit { topic: TopicId::from_bytes([1; 16]), partition: 0, offset: now, leader_epoch: 0, metadata: None };
            let generation = if who.is_some() { current } else { -1 };
            let request =
                CommitRequest { group: GROUPS[group], generation, member_id: &id, group_instance_id: None, offsets: vec![offset] };
            let (_, effects) = world.table.commit(request, now);
            world.take(effects);
        }
        Step::HangUp { nth } => {
            if let Some(token) = clients.open.keys().nth(nth).copied() {
                clients.open.remove(&token);
                world.table.drop_reply(token);
            }
        }
        Step::Delete { group } => {
            if let Ok(effects) = world.table.delete_group(GROUPS[group], now) {
                world.take(effects);
                clients.generations.remove(GROUPS[group]);
                clients.leaders.retain(|(name, _), _| *name != GROUPS[group]);
            }
        }
        Step::Pass { ms } => world.pass(ms),
    }
}

fn check(world: &World, clients: &mut Clients) {
    for (token, (since, _)) in &clients.open {
        assert!(world.now_ms - since <= ANSWER_MS_MAX, "{token:?} waits since {since}");
    }
    assert_eq!(world.table.parked(), clients.open.len(), "every open request is known, and no other");
    for name in GROUPS {
        let Some(group) = world.table.groups().get(name) else {
            clients.generations.remove(name);
            clients.leaders.retain(|(leads, _), _| *leads != name);
            continue;
        };
        let before = clients.generations.insert(name, group.generation).unwrap_or(0);
        assert!(group.generation >= before, "generations only grow");
        assert!(group.members.len() <= 2 * LIMITS.size_max);
        assert!(group.phase != Phase::Empty || group.members.is_empty());
        assert!(matches!(group.phase, Phase::Empty | Phase::PreparingRebalance) || !group.members.is_empty());
        assert!(group.leader.as_ref().is_none_or(|leader| group.members.contains_key(leader)));
        assert_eq!(group.leader.is_none(), group.members.is_empty());
        let statics = group.members.iter().filter_map(|(id, member)| Some((member.instance_id.clone()?, id.clone())));
        assert_eq!(statics.collect::<BTreeMap<_, _>>(), group.static_members);
        assert_eq!(group.phase == Phase::PreparingRebalance, group.join_deadline_ms.is_some());
        assert!(group.phase != Phase::CompletingRebalance || group.sync_deadline_ms.is_some());
        for member in group.members.values() {
            assert!(member.join == Waiting::No || group.phase == Phase::PreparingRebalance);
            assert!(member.sync == Waiting::No || group.phase == Phase::CompletingRebalance);
        }
        assert_eq!(group.indexed_ms, group.deadline_ms());
        assert!(group.phase == Phase::Empty || group.select_protocol().is_some() || group.members.is_empty());
    }
}

/// Stable and empty groups come back as they were; the others as their last record says.
fn check_reload(world: &mut World) {
    let settled: Vec<(&str, GroupDescription, Vec<FetchedOffset>)> = GROUPS
        .iter()
        .filter(|name| world.table.groups().get(**name).is_some_and(|g| matches!(g.phase, Phase::Stable | Phase::Empty) && !g.is_void()))
        .filter(|name| world.table.groups().get(**name).is_some_and(|g| g.recorded || !g.offsets.is_empty()))
        .map(|name| (*name, world.table.describe(name).expect("there"), world.table.fetch(name, None)))
        .collect();
    world.reload();
    for (name, description, offsets) in settled {
        assert_eq!(world.table.describe(name), Some(description));
        assert_eq!(world.table.fetch(name, None), offsets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_promises(steps in proptest::collection::vec(step(), 1..150)) {
        let (mut world, mut clients) = (World::new(), Clients::default());
        for step in &steps {
            run(&mut world, &mut clients, step);
            clients.read(&mut world);
            check(&world, &mut clients);
        }
        check_reload(&mut world.fork());
        world.pass(ANSWER_MS_MAX);
        clients.read(&mut world);
        prop_assert!(clients.open.is_empty(), "silence ends every wait");
        check(&world, &mut clients);
    }
}
