//! Scripted histories of groups: each test is one promise, told as the calls of clients and the passing of time.

use std::collections::BTreeMap;

use bytes::Bytes;
use schloss_core::{ErrorCode, PartitionId, TopicId};

use crate::api::*;
use crate::limits;
use crate::table::GroupTable;

pub const LIMITS: GroupLimits = GroupLimits {
    session_timeout_min_ms: 1000,
    session_timeout_max_ms: 60_000,
    initial_rebalance_delay_ms: 3000,
    size_max: 4,
    groups_max: 3,
    offset_metadata_bytes_max: 16,
    offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
};
const G: &str = "group";
const TOPIC: TopicId = TopicId::from_bytes([9; 16]);
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 20_000;

/// A table, the time, and the durable state its records made.
pub struct World {
    pub table: GroupTable,
    pub now_ms: i64,
    pub state: BTreeMap<Bytes, Bytes>,
    pub replies: BTreeMap<ReplyToken, Reply>,
    tokens: u64,
}

impl World {
    pub fn new() -> Self {
        Self { table: GroupTable::load(LIMITS, &[], 0).unwrap(), now_ms: 0, state: BTreeMap::new(), replies: BTreeMap::new(), tokens: 0 }
    }

    pub fn take(&mut self, effects: Effects) -> usize {
        let records = effects.records.len();
        for record in effects.records {
            match record.value {
                Some(value) => self.state.insert(record.key, value),
                None => self.state.remove(&record.key),
            };
        }
        for (token, reply) in effects.replies {
            assert!(self.replies.insert(token, reply).is_none(), "{token:?} is answered twice");
        }
        records
    }

    pub fn token(&mut self) -> ReplyToken {
        self.tokens += 1;
        ReplyToken(self.tokens)
    }

    pub fn join_with(&mut self, change: impl FnOnce(&mut JoinRequest<'_>)) -> ReplyToken {
        self.join_as("", change)
    }

    fn join_as(&mut self, member_id: &str, change: impl FnOnce(&mut JoinRequest<'_>)) -> ReplyToken {
        let mut request = JoinRequest {
            group: G,
            member_id,
            group_instance_id: None,
            client_id: "c",
            client_host: "/127.0.0.1",
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer",
            protocols: vec![("range".into(), subscription("t"))],
            require_known_member_id: false,
            supports_skip_assignment: true,
        };
        change(&mut request);
        let token = self.token();
        let random = u128::from(token.0);
        let effects = self.table.join(token, request, self.now_ms, random);
        self.take(effects);
        token
    }

    pub fn join(&mut self, member_id: &str) -> ReplyToken {
        self.join_as(member_id, |_| {})
    }

    fn join_static(&mut self, instance: &'static str, skip: bool) -> ReplyToken {
        self.join_with(|request| {
            request.group_instance_id = Some(instance);
            request.supports_skip_assignment = skip;
        })
    }

    fn sync(&mut self, member_id: &str, generation: i32, assignments: &[(&str, &'static str)]) -> ReplyToken {
        let token = self.token();
        let assignments = assignments.iter().map(|(id, share)| ((*id).to_owned(), Bytes::from_static(share.as_bytes())));
        let request = SyncRequest {
            group: G,
            generation,
            member_id,
            group_instance_id: None,
            protocol_type: Some("consumer"),
            protocol: Some("range"),
            assignments: assignments.collect(),
        };
        let effects = self.table.sync(token, request, self.now_ms);
        self.take(effects);
        token
    }

    fn beat(&mut self, member_id: &str, generation: i32) -> Result<(), ErrorCode> {
        let request = HeartbeatRequest { group: G, generation, member_id, group_instance_id: None };
        self.table.heartbeat(&request, self.now_ms)
    }

    fn leave(&mut self, member_id: &str) -> Vec<ErrorCode> {
        let leaver = MemberIdentity { member_id: member_id.to_owned(), group_instance_id: None };
        let (codes, effects) = self.table.leave(G, &[leaver], self.now_ms);
        self.take(effects);
        codes
    }

    fn commit(&mut self, member_id: &str, generation: i32, metadata: Option<&str>) -> Result<Vec<ErrorCode>, ErrorCode> {
        let offset = OffsetToCommit { topic: TOPIC, partition: 0, offset: 7, leader_epoch: 0, metadata: metadata.map(str::to_owned) };
        let request = CommitRequest { group: G, generation, member_id, group_instance_id: None, offsets: vec![offset] };
        let (codes, effects) = self.table.commit(request, self.now_ms);
        self.take(effects);
        codes
    }

    /// Lets time pass, ticking at every deadline.
    pub fn pass(&mut self, ms: i64) {
        let end = self.now_ms + ms;
        while let Some(due) = self.table.next_deadline_ms().filter(|due| *due <= end) {
            self.now_ms = self.now_ms.max(due);
            let effects = self.table.tick(self.now_ms);
            self.take(effects);
        }
        self.now_ms = end;
    }

    fn joined(&self, token: ReplyToken) -> &JoinReply {
        match self.replies.get(&token) {
            Some(Reply::Join(reply)) => reply,
            other => panic!("no join reply but {other:?}"),
        }
    }

    fn synced(&self, token: ReplyToken) -> &SyncReply {
        match self.replies.get(&token) {
            Some(Reply::Sync(reply)) => reply,
            other => panic!("no sync reply but {other:?}"),
        }
    }

    fn word(&self) -> &'static str {
        self.table.describe(G).map_or("none", |group| group.state)
    }

    /// One stable member, leader, in generation 1; its id.
    fn one(&mut self) -> String {
        let token = self.join("");
        self.pass(3000);
        let id = self.joined(token).member_id.clone();
        let generation = self.joined(token).generation;
        self.sync(&id, generation, &[(&id, "all")]);
        assert_eq!(self.word(), "Stable");
        id
    }

    /// Two stable members, leader first, in generation 1.
    fn two(&mut self) -> (String, String) {
        let (a, b) = (self.join(""), self.join(""));
        self.pass(6000);
        let (a, b) = (self.joined(a).clone(), self.joined(b).clone());
        let (leader, follower) = if a.leader == a.member_id { (a, b) } else { (b, a) };
        self.sync(&leader.member_id, leader.generation, &[(&leader.member_id, "one"), (&follower.member_id, "two")]);
        self.sync(&follower.member_id, leader.generation, &[]);
        assert_eq!(self.word(), "Stable");
        (leader.member_id, follower.member_id)
    }

    /// The same world, to try something out.
    pub fn fork(&self) -> Self {
        Self {
            table: self.table.clone(),
            now_ms: self.now_ms,
            state: self.state.clone(),
            replies: self.replies.clone(),
            tokens: self.tokens,
        }
    }

    pub fn reload(&mut self) {
        let state: Vec<(Bytes, Bytes)> = self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.table = GroupTable::load(LIMITS, &state, self.now_ms).unwrap();
    }
}

pub fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, u8::try_from(topic.len()).unwrap()];
    bytes.extend_from_slice(topic.as_bytes());
    bytes.into()
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TOPIC, index }
}

#[test]
fn new_dynamic_member_is_told_its_id_and_leads_after_the_first_delay() {
    let mut world = World::new();
    let asked = world.join_with(|request| request.require_known_member_id = true);
    assert_eq!(world.joined(asked).error, ErrorCode::MEMBER_ID_REQUIRED);
    let id = world.joined(asked).member_id.clone();
    assert_eq!(id, "c-00000000-0000-0000-0000-000000000001");
    let joined = world.join(&id);
    world.pass(2999);
    assert!(!world.replies.contains_key(&joined));
    world.pass(1);
    let reply = world.joined(joined).clone();
    assert_eq!((reply.error, reply.generation, reply.leader), (ErrorCode::NONE, 1, id.clone()));
    assert_eq!(reply.members, vec![JoinMember { member_id: id, group_instance_id: None, metadata: subscription("t") }]);
}

#[test]
fn first_delay_is_extended_while_members_come_but_not_beyond_the_rebalance_timeout() {
    let mut world = World::new();
    let first = world.join("");
    for _ in 0..3 {
        world.pass(2900);
        world.join("");
    }
    world.pass(11_999 - world.now_ms);
    assert!(!world.replies.contains_key(&first));
    world.pass(1);
    assert_eq!(world.joined(first).generation, 1);
    assert_eq!(world.table.describe(G).unwrap().members.len(), 4);

    let mut world = World::new();
    let hurried = world.join_with(|request| request.rebalance_timeout_ms = 4000);
    world.pass(2000);
    world.join_with(|request| request.rebalance_timeout_ms = 4000);
    world.pass(2000);
    assert_eq!(world.joined(hurried).generation, 1);
}

#[test]
fn id_handed_out_ahead_expires_with_its_session() {
    let mut world = World::new();
    let asked = world.join_with(|request| request.require_known_member_id = true);
    let id = world.joined(asked).member_id.clone();
    world.pass(i64::from(SESSION_MS));
    assert!(world.table.is_empty());
    let late = world.join(&id);
    assert_eq!(world.joined(late).error, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn follower_waits_for_the_leaders_assignment_and_gets_its_share() {
    let mut world = World::new();
    let (a, b) = (world.join(""), world.join(""));
    world.pass(6000);
    let (a, b) = (world.joined(a).clone(), world.joined(b).clone());
    assert_eq!(a.leader, b.leader);
    let (leader, follower) = if a.leader == a.member_id { (a, b) } else { (b, a) };
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    let waits = world.sync(&follower.member_id, 1, &[]);
    assert!(!world.replies.contains_key(&waits));
    let leads = world.sync(&leader.member_id, 1, &[(&leader.member_id, "one"), (&follower.member_id, "two")]);
    assert_eq!(world.synced(leads).assignment, "one");
    assert_eq!(world.synced(waits).assignment, "two");
}

#[test]
fn leader_that_never_assigns_is_removed_and_followers_rebalance() {
    let mut world = World::new();
    let (a, b) = (world.join(""), world.join(""));
    world.pass(6000);
    let (a, b) = (world.joined(a).clone(), world.joined(b).clone());
    let follower = if a.leader == a.member_id { b } else { a };
    let waits = world.sync(&follower.member_id, 1, &[]);
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.synced(waits).error, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(world.beat(&follower.member_id, 1), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    let again = world.join(&follower.member_id);
    assert_eq!((world.joined(again).generation, world.joined(again).leader.clone()), (2, follower.member_id));
}

#[test]
fn member_that_heartbeats_but_never_syncs_is_removed_at_the_sync_deadline() {
    let mut world = World::new();
    let token = world.join("");
    world.pass(3000);
    let id = world.joined(token).member_id.clone();
    for _ in 0..4 {
        assert_eq!(world.beat(&id, 1), Ok(()));
        world.pass(5000);
    }
    assert_eq!(world.beat(&id, 1), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(world.word(), "Empty");
}

#[test]
fn newcomer_rebalances_and_who_does_not_rejoin_is_dropped_at_the_rebalance_timeout() {
    let mut world = World::new();
    let old = world.one();
    let new = world.join("");
    assert_eq!(world.beat(&old, 1), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    for _ in 0..3 {
        world.pass(5000);
        assert_eq!(world.beat(&old, 1), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    }
    assert!(!world.replies.contains_key(&new));
    world.pass(5000);
    let reply = world.joined(new);
    assert_eq!((reply.generation, reply.members.len()), (2, 1));
    assert_eq!(world.beat(&old, 1), Err(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn rebalance_ends_at_once_when_everybody_has_rejoined() {
    let mut world = World::new();
    let old = world.one();
    let new = world.join("");
    let again = world.join(&old);
    assert_eq!((world.joined(new).generation, world.joined(again).generation), (2, 2));
    assert_eq!(world.joined(new).leader, old, "the leader stays");
}

#[test]
fn silent_member_is_removed_when_its_session_ends() {
    let mut world = World::new();
    let id = world.one();
    world.pass(i64::from(SESSION_MS) - 1);
    assert_eq!(world.beat(&id, 1), Ok(()));
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.beat(&id, 1), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(world.word(), "Empty");
}

#[test]
fn member_waiting_in_a_rebalance_does_not_expire() {
    let mut world = World::new();
    let (a, b) = world.two();
    let rejoined = world.join(&a);
    for _ in 0..3 {
        world.pass(6000);
        let _ = world.beat(&b, 1);
    }
    world.pass(2000);
    assert_eq!(world.joined(rejoined).error, ErrorCode::NONE);
    assert_eq!(world.joined(rejoined).generation, 2);
}

#[test]
fn follower_that_joins_again_unchanged_gets_the_same_answer_without_a_rebalance() {
    let mut world = World::new();
    let (_, follower) = world.two();
    let again = world.join(&follower);
    assert_eq!((world.joined(again).error, world.joined(again).generation), (ErrorCode::NONE, 1));
    assert_eq!(world.word(), "Stable");
}

#[test]
fn leader_that_joins_again_begins_a_rebalance() {
    let mut world = World::new();
    let (leader, _) = world.two();
    world.join(&leader);
    assert_eq!(world.word(), "PreparingRebalance");
}

#[test]
fn wrong_generation_member_or_protocol_is_refused() {
    let mut world = World::new();
    let id = world.one();
    assert_eq!(world.beat(&id, 2), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(world.beat("other", 1), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let sync = world.sync(&id, 9, &[]);
    assert_eq!(world.synced(sync).error, ErrorCode::ILLEGAL_GENERATION);
    let other_type = world.join_with(|request| request.protocol_type = "connect");
    assert_eq!(world.joined(other_type).error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let other_protocol = world.join_with(|request| request.protocols = vec![("sticky".into(), Bytes::new())]);
    assert_eq!(world.joined(other_protocol).error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(world.word(), "Stable");
}

#[test]
fn impossible_requests_are_refused_before_any_group_exists() {
    let mut world = World::new();
    let short = world.join_with(|request| request.session_timeout_ms = 999);
    let long = world.join_with(|request| request.session_timeout_ms = 60_001);
    let nameless = world.join_with(|request| request.group = "");
    let heavy = world.join_with(|request| {
        request.protocols = vec![("range".into(), vec![0; limits::MEMBER_METADATA_BYTES_MAX].into())];
    });
    assert_eq!(world.joined(short).error, ErrorCode::INVALID_SESSION_TIMEOUT);
    assert_eq!(world.joined(long).error, ErrorCode::INVALID_SESSION_TIMEOUT);
    assert_eq!(world.joined(nameless).error, ErrorCode::INVALID_GROUP_ID);
    assert_eq!(world.joined(heavy).error, ErrorCode::INVALID_REQUEST);
    assert!(world.table.is_empty());
}

#[test]
fn full_group_refuses_a_newcomer_and_stays_stable() {
    let mut world = World::new();
    let tokens: Vec<ReplyToken> = (0..4).map(|_| world.join("")).collect();
    let fifth = world.join("");
    assert_eq!(world.joined(fifth).error, ErrorCode::GROUP_MAX_SIZE_REACHED);
    world.pass(6000);
    let ids: Vec<String> = tokens.iter().map(|token| world.joined(*token).member_id.clone()).collect();
    let leader = world.joined(tokens[0]).leader.clone();
    for id in ids.iter().filter(|id| **id != leader).chain([&leader]) {
        world.sync(id, 1, &[]);
    }
    let sixth = world.join("");
    assert_eq!(world.joined(sixth).error, ErrorCode::GROUP_MAX_SIZE_REACHED);
    assert_eq!(world.word(), "Stable");
}

#[test]
fn ids_handed_out_ahead_are_bounded() {
    let mut world = World::new();
    for _ in 0..4 {
        world.join_with(|request| request.require_known_member_id = true);
    }
    let fifth = world.join_with(|request| request.require_known_member_id = true);
    assert_eq!(world.joined(fifth).error, ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn tenant_at_its_bound_of_groups_gets_no_more() {
    let mut world = World::new();
    for group in ["a", "b", "c"] {
        world.join_with(|request| request.group = group);
    }
    let fourth = world.join_with(|request| request.group = "d");
    assert_eq!(world.joined(fourth).error, ErrorCode::POLICY_VIOLATION);
    assert_eq!(world.commit("", -1, None), Err(ErrorCode::POLICY_VIOLATION));
}

#[test]
fn protocol_with_most_votes_among_the_common_ones_wins() {
    let mut world = World::new();
    let offer = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), subscription("t"))).collect::<Vec<_>>();
    let first = world.join_with(|request| request.protocols = offer(&["x", "range", "sticky"]));
    world.join_with(|request| request.protocols = offer(&["sticky", "range"]));
    world.join_with(|request| request.protocols = offer(&["sticky", "range", "y"]));
    world.pass(6000);
    assert_eq!(world.joined(first).protocol.as_deref(), Some("sticky"));
}

#[test]
fn last_member_that_leaves_empties_the_group_with_a_new_generation() {
    let mut world = World::new();
    let id = world.one();
    assert_eq!(world.leave(&id), vec![ErrorCode::NONE]);
    assert_eq!(world.leave(&id), vec![ErrorCode::UNKNOWN_MEMBER_ID]);
    assert_eq!(world.word(), "Empty");
    let next = world.join("");
    world.pass(3000);
    assert_eq!(world.joined(next).generation, 3);
}

#[test]
fn leaver_with_a_parked_sync_is_answered() {
    let mut world = World::new();
    let (a, b) = (world.join(""), world.join(""));
    world.pass(6000);
    let (a, b) = (world.joined(a).clone(), world.joined(b).clone());
    let follower = if a.leader == a.member_id { b } else { a };
    let waits = world.sync(&follower.member_id, 1, &[]);
    world.leave(&follower.member_id);
    assert_eq!(world.synced(waits).error, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn static_member_that_returns_keeps_its_assignment_and_fences_its_former_self() {
    let mut world = World::new();
    let first = world.join_static("i", true);
    world.pass(3000);
    let old = world.joined(first).member_id.clone();
    world.sync(&old, 1, &[(&old, "all")]);
    let back = world.join_static("i", true);
    let reply = world.joined(back).clone();
    assert_eq!((reply.error, reply.generation, reply.skip_assignment), (ErrorCode::NONE, 1, true));
    assert_ne!(reply.member_id, old);
    assert_eq!(reply.leader, reply.member_id);
    let sync = world.sync(&reply.member_id, 1, &[]);
    assert_eq!(world.synced(sync).assignment, "all");
    let request = HeartbeatRequest { group: G, generation: 1, member_id: &old, group_instance_id: Some("i") };
    assert_eq!(world.table.heartbeat(&request, world.now_ms), Err(ErrorCode::FENCED_INSTANCE_ID));
}

#[test]
fn returned_static_leader_that_cannot_skip_does_not_take_itself_for_the_leader() {
    let mut world = World::new();
    let first = world.join_static("i", false);
    world.pass(3000);
    let old = world.joined(first).member_id.clone();
    world.sync(&old, 1, &[(&old, "all")]);
    let back = world.join_static("i", false);
    let reply = world.joined(back);
    assert_eq!((reply.leader.clone(), reply.skip_assignment, reply.members.len()), (old, false, 0));
}

#[test]
fn second_static_member_of_one_instance_fences_the_one_that_waits() {
    let mut world = World::new();
    let first = world.join_static("i", true);
    let second = world.join_static("i", true);
    assert_eq!(world.joined(first).error, ErrorCode::FENCED_INSTANCE_ID);
    world.pass(6000);
    assert_eq!((world.joined(second).error, world.joined(second).members.len()), (ErrorCode::NONE, 1));
}

#[test]
fn static_member_can_be_removed_by_its_instance_id_alone() {
    let mut world = World::new();
    world.join_static("i", true);
    world.pass(3000);
    let by_instance = |instance: &str| MemberIdentity { member_id: String::new(), group_instance_id: Some(instance.to_owned()) };
    let (codes, effects) = world.table.leave(G, &[by_instance("i"), by_instance("j")], world.now_ms);
    world.take(effects);
    assert_eq!(codes, vec![ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID]);
    assert_eq!(world.word(), "Empty");
}

#[test]
fn static_members_that_miss_a_rebalance_stay_in_the_group() {
    let mut world = World::new();
    let first = world.join_with(|request| {
        request.group_instance_id = Some("i");
        request.session_timeout_ms = 60_000;
    });
    world.pass(3000);
    let id = world.joined(first).member_id.clone();
    world.sync(&id, 1, &[]);
    let new = world.join("");
    world.pass(i64::from(REBALANCE_MS));
    assert_eq!(world.joined(new).members.len(), 2, "the newcomer leads and sees both");
}

#[test]
fn consumer_without_a_member_may_commit_only_while_the_group_is_empty() {
    let mut world = World::new();
    assert_eq!(world.commit("", -1, None), Ok(vec![ErrorCode::NONE]));
    assert_eq!(world.commit("m", 3, None), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let id = world.one();
    assert_eq!(world.commit("", -1, None), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(world.commit(&id, 1, Some("note")), Ok(vec![ErrorCode::NONE]));
    assert_eq!(world.commit(&id, 0, None), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(world.commit(&id, 1, Some("a note over sixteen bytes")), Ok(vec![ErrorCode::OFFSET_METADATA_TOO_LARGE]));
    let fetched = world.table.fetch(G, Some(&[partition(0), partition(1)]));
    let committed = CommittedOffset { offset: 7, leader_epoch: 0, metadata: "note".into(), commit_ms: world.now_ms };
    assert_eq!(fetched[0].committed, Some(committed));
    assert_eq!(fetched[1].committed, None);
}

#[test]
fn commit_into_a_group_that_is_not_there_needs_no_generation() {
    let mut world = World::new();
    assert_eq!(world.commit("m", 1, None), Err(ErrorCode::ILLEGAL_GENERATION));
    assert!(world.table.is_empty());
}

#[test]
fn commit_during_the_leaders_assignment_is_told_to_rejoin() {
    let mut world = World::new();
    let token = world.join("");
    world.pass(3000);
    let id = world.joined(token).member_id.clone();
    assert_eq!(world.commit(&id, 1, None), Err(ErrorCode::REBALANCE_IN_PROGRESS));
}

#[test]
fn commit_keeps_a_member_alive() {
    let mut world = World::new();
    let id = world.one();
    world.pass(9000);
    world.commit(&id, 1, None).unwrap();
    world.pass(9000);
    assert_eq!(world.beat(&id, 1), Ok(()));
}

#[test]
fn offsets_of_a_subscribed_topic_cannot_be_deleted() {
    let mut world = World::new();
    let id = world.one();
    world.commit(&id, 1, None).unwrap();
    let (codes, effects) = world.table.delete_offsets(G, &[(partition(0), "t"), (partition(0), "u")], world.now_ms);
    assert_eq!(codes, Ok(vec![ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode::NONE]));
    assert_eq!(effects.records.len(), 1);
    let (codes, _) = world.table.delete_offsets("nobody", &[], world.now_ms);
    assert_eq!(codes, Err(ErrorCode::GROUP_ID_NOT_FOUND));
}

#[test]
fn offsets_of_a_deleted_topic_are_gone() {
    let mut world = World::new();
    world.commit("", -1, None).unwrap();
    let effects = world.table.topic_deleted(TOPIC, world.now_ms);
    world.take(effects);
    assert!(world.state.is_empty());
    assert!(world.table.is_empty(), "nothing is left to remember");
}

#[test]
fn only_an_empty_group_can_be_deleted_and_nothing_of_it_stays() {
    let mut world = World::new();
    let id = world.one();
    world.commit(&id, 1, None).unwrap();
    assert_eq!(world.table.delete_group(G, world.now_ms), Err(ErrorCode::NON_EMPTY_GROUP));
    world.leave(&id);
    let effects = world.table.delete_group(G, world.now_ms).unwrap();
    world.take(effects);
    assert!(world.state.is_empty());
    assert_eq!(world.table.delete_group(G, world.now_ms), Err(ErrorCode::GROUP_ID_NOT_FOUND));
    assert_eq!(world.table.next_deadline_ms(), None);
}

#[test]
fn offsets_of_an_empty_group_expire_after_the_retention_and_take_the_group_along() {
    let mut world = World::new();
    let id = world.one();
    world.commit(&id, 1, None).unwrap();
    world.pass(5000);
    world.leave(&id);
    world.pass(LIMITS.offsets_retention_ms - 1);
    assert_eq!(world.state.len(), 2);
    world.pass(limits::CLEANUP_INTERVAL_MS + 1);
    assert!(world.state.is_empty());
    assert!(world.table.is_empty());
}

#[test]
fn offsets_of_a_group_with_members_do_not_expire() {
    let mut world = World::new();
    let id = world.one();
    world.commit(&id, 1, None).unwrap();
    for _ in 0..80 * 24 * 7 {
        world.pass(9000);
        world.beat(&id, 1).unwrap();
    }
    assert_eq!(world.table.fetch(G, None).len(), 1);
}

#[test]
fn restarted_broker_keeps_members_assignments_and_offsets() {
    let mut world = World::new();
    let (leader, follower) = world.two();
    world.commit(&follower, 1, None).unwrap();
    let (before, offsets) = (world.table.describe(G), world.table.fetch(G, None));
    world.pass(9000);
    world.reload();
    assert_eq!(world.table.describe(G), before);
    assert_eq!(world.table.fetch(G, None), offsets);
    world.pass(9000);
    assert_eq!(world.beat(&leader, 1), Ok(()), "a restart gives a fresh session");
    let sync = world.sync(&follower, 1, &[]);
    assert_eq!(world.synced(sync).assignment, "two");
    world.pass(20_000);
    assert_eq!(world.word(), "Empty", "and silence still ends it");
}

#[test]
fn client_gone_while_parked_is_not_answered_and_nobody_else_suffers() {
    let mut world = World::new();
    let (a, b) = (world.join(""), world.join(""));
    world.table.drop_reply(a);
    world.pass(6000);
    assert!(!world.replies.contains_key(&a));
    assert_eq!(world.joined(b).error, ErrorCode::NONE);
    assert_eq!(world.table.parked(), 0);
}

#[test]
fn member_that_asks_twice_gets_an_answer_to_both() {
    let mut world = World::new();
    let (leader, follower) = world.two();
    let first = world.join(&leader);
    let second = world.join(&leader);
    assert_eq!(world.joined(first).error, ErrorCode::REBALANCE_IN_PROGRESS);
    world.join(&follower);
    assert_eq!((world.joined(second).error, world.joined(second).generation), (ErrorCode::NONE, 2));
}

#[test]
fn lists_filter_by_state_and_type_without_case() {
    let mut world = World::new();
    world.one();
    world.join_with(|request| request.group = "other");
    assert_eq!(world.table.list(&[], &[]).len(), 2);
    assert_eq!(world.table.list(&["stable"], &["Classic"]).len(), 1);
    assert_eq!(world.table.list(&[], &["consumer"]).len(), 0);
    assert_eq!(world.table.list(&[], &[])[0], GroupListing { group: G.into(), protocol_type: "consumer".into(), state: "Stable" });
}

#[test]
fn assignment_over_the_bound_of_a_record_is_refused_and_rebalances() {
    let mut world = World::new();
    let token = world.join("");
    world.pass(3000);
    let id = world.joined(token).member_id.clone();
    let sync = world.token();
    let huge = Bytes::from(vec![0; limits::GROUP_RECORD_BYTES_MAX]);
    let request = SyncRequest {
        group: G,
        generation: 1,
        member_id: &id,
        group_instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(id.clone(), huge)],
    };
    let effects = world.table.sync(sync, request, world.now_ms);
    assert_eq!(world.take(effects), 0);
    assert_eq!(world.synced(sync).error, ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(world.word(), "PreparingRebalance");
}
