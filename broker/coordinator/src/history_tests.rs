//! Promises of groups, told as histories, and the invariants under histories nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use schloss_core::{ErrorCode, GroupId, PartitionId, TopicId};

use super::*;

/// A table with its clock, its answers, and what is durable.
struct Bench {
    table: GroupTable,
    now: Now,
    tokens: u64,
    answers: BTreeMap<ReplyToken, Reply>,
    durable: BTreeMap<Bytes, Bytes>,
}

fn group() -> GroupId {
    GroupId::new("g").unwrap()
}

fn config() -> GroupConfig {
    GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() }
}

/// A consumer's metadata that subscribes to these topics.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 1];
    out.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        out.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend([0xff; 4]);
    out.into()
}

fn join(member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: subscription(&["orders"]) }],
        id_required: false,
        can_skip_assignment: true,
        fresh: [0; 16],
    }
}

fn static_join(instance: &str) -> Join {
    Join { instance_id: Some(instance.into()), ..join("") }
}

impl Bench {
    fn new(config: GroupConfig) -> Self {
        let now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let table = GroupTable::load(config, [], now).unwrap();
        Self { table, now, tokens: 0, answers: BTreeMap::new(), durable: BTreeMap::new() }
    }

    fn token(&mut self) -> ReplyToken {
        self.tokens += 1;
        ReplyToken(self.tokens)
    }

    fn take(&mut self, effects: Effects) {
        for record in effects.records {
            match record.value {
                Some(value) => self.durable.insert(record.key, value),
                None => self.durable.remove(&record.key),
            };
        }
        for (token, reply) in effects.replies {
            assert!(self.answers.insert(token, reply).is_none(), "answered twice");
        }
    }

    fn send_join(&mut self, mut join: Join) -> ReplyToken {
        let token = self.token();
        join.fresh = u128::from(token.0).to_be_bytes();
        let effects = self.table.join(&group(), join, token, self.now);
        self.take(effects);
        token
    }

    fn joined(&self, token: ReplyToken) -> &JoinReply {
        let Some(Reply::Join(reply)) = self.answers.get(&token) else { panic!("no join answer") };
        reply
    }

    fn member(&self, token: ReplyToken) -> MemberRef {
        let reply = self.joined(token);
        assert_eq!(reply.error, ErrorCode::NONE);
        MemberRef { generation: reply.generation, member_id: reply.member_id.clone(), instance_id: None }
    }

    fn send_sync(&mut self, member: &MemberRef, assignments: &[(&str, &str)]) -> ReplyToken {
        let token = self.token();
        let assignments =
            assignments.iter().map(|(id, given)| ((*id).into(), Bytes::copy_from_slice(given.as_bytes())));
        let sync =
            Sync { member: member.clone(), protocol_type: None, protocol: None, assignments: assignments.collect() };
        let effects = self.table.sync(&group(), sync, token, self.now);
        self.take(effects);
        token
    }

    fn synced(&self, token: ReplyToken) -> Result<&[u8], ErrorCode> {
        match self.answers.get(&token) {
            Some(Reply::Sync(reply)) if reply.error == ErrorCode::NONE => Ok(&reply.assignment),
            Some(Reply::Sync(reply)) => Err(reply.error),
            _ => panic!("no sync answer"),
        }
    }

    fn heartbeat(&mut self, member: &MemberRef) -> ErrorCode {
        let token = self.token();
        let effects = self.table.heartbeat(&group(), member, token, self.now);
        self.take(effects);
        let Some(Reply::Heartbeat(code)) = self.answers.get(&token) else { panic!("no heartbeat answer") };
        *code
    }

    fn leave(&mut self, member_id: &str, instance_id: Option<&str>) -> ErrorCode {
        let token = self.token();
        let leaving = [LeavingMember { member_id: member_id.into(), instance_id: instance_id.map(Arc::from) }];
        let effects = self.table.leave(&group(), &leaving, token, self.now);
        self.take(effects);
        let Some(Reply::Leave { members, .. }) = self.answers.get(&token) else { panic!("no leave answer") };
        members[0]
    }

    fn commit(&mut self, member: &MemberRef, index: i32, offset: i64) -> ErrorCode {
        let token = self.token();
        let commit = PartitionCommit { partition: partition(index), offset, leader_epoch: 3, metadata: "m".into() };
        let commit = Commit { member: member.clone(), partitions: vec![commit] };
        let effects = self.table.commit(&group(), &commit, token, self.now);
        self.take(effects);
        let Some(Reply::Commit(codes)) = self.answers.get(&token) else { panic!("no commit answer") };
        codes[0]
    }

    fn offset(&self, index: i32) -> Option<i64> {
        self.table.offset(&group(), partition(index)).map(|offset| offset.offset)
    }

    fn pass(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += i64::try_from(ms).unwrap();
        let effects = self.table.tick(self.now);
        self.take(effects);
    }

    fn restart(&mut self, config: GroupConfig) {
        self.now.monotonic_ms = 5;
        self.table = GroupTable::load(config, &self.durable, self.now).unwrap();
    }

    fn state(&self) -> GroupState {
        self.table.describe(&group()).unwrap().state
    }

    /// Two members in a stable group; the first is the leader.
    fn stable_pair(&mut self) -> (MemberRef, MemberRef) {
        let first = self.send_join(join(""));
        let first = self.member(first);
        let second = self.send_join(join(""));
        let again = self.send_join(join(&first.member_id));
        let (leader, other) = (self.member(again), self.member(second));
        self.send_sync(&other, &[]);
        self.send_sync(&leader, &[(&leader.member_id, "a"), (&other.member_id, "b")]);
        assert_eq!(self.state(), GroupState::Stable);
        (leader, other)
    }
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([9; 16]), index }
}

fn nobody() -> MemberRef {
    MemberRef { generation: -1, member_id: "".into(), instance_id: None }
}

#[test]
fn two_members_get_their_shares_from_the_leader() {
    let mut bench = Bench::new(config());
    let first = bench.send_join(join(""));
    assert_eq!(bench.joined(first).generation, 1);
    let first = bench.member(first);
    assert_eq!(bench.joined(ReplyToken(1)).leader, first.member_id);
    let second = bench.send_join(join(""));
    assert!(!bench.answers.contains_key(&second), "waits for the first member");
    assert_eq!(bench.heartbeat(&first), ErrorCode::REBALANCE_IN_PROGRESS);
    let again = bench.send_join(join(&first.member_id));
    let (leader, other) = (bench.member(again), bench.member(second));
    assert_eq!((leader.generation, other.generation), (2, 2));
    assert_eq!(bench.joined(again).members.len(), 2);
    assert_eq!(bench.joined(second).members.len(), 0);
    let waits = bench.send_sync(&other, &[]);
    assert!(!bench.answers.contains_key(&waits));
    let given = bench.send_sync(&leader, &[(&leader.member_id, "a"), (&other.member_id, "b")]);
    assert_eq!((bench.synced(given), bench.synced(waits)), (Ok(&b"a"[..]), Ok(&b"b"[..])));
    assert_eq!(bench.heartbeat(&other), ErrorCode::NONE);
    assert_eq!(bench.table.describe(&group()).unwrap().protocol, "range".into());
}

#[test]
fn newcomer_must_come_back_with_its_id() {
    let mut bench = Bench::new(config());
    let told = bench.send_join(Join { id_required: true, ..join("") });
    assert_eq!(bench.joined(told).error, ErrorCode::MEMBER_ID_REQUIRED);
    let id = bench.joined(told).member_id.clone();
    assert!(id.starts_with("client-"));
    let back = bench.send_join(Join { id_required: true, ..join(&id) });
    assert_eq!(bench.joined(back).error, ErrorCode::NONE);
    assert_eq!(bench.joined(back).member_id, id);
}

#[test]
fn newcomer_that_never_comes_back_leaves_no_group() {
    let mut bench = Bench::new(config());
    bench.send_join(Join { id_required: true, ..join("") });
    assert_eq!(bench.table.list().count(), 1);
    bench.pass(10_000);
    assert_eq!((bench.table.list().count(), bench.table.next_deadline_ms()), (0, None));
}

#[test]
fn first_rebalance_waits_for_more_members() {
    let mut bench = Bench::new(GroupConfig::default());
    let first = bench.send_join(join(""));
    bench.pass(2_000);
    let second = bench.send_join(join(""));
    bench.pass(1_000);
    assert!(!bench.answers.contains_key(&first), "a newcomer puts it off");
    bench.pass(3_000);
    assert_eq!((bench.joined(first).generation, bench.joined(second).generation), (1, 1));
}

#[test]
fn silent_member_is_out_after_its_session() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    bench.pass(9_999);
    assert_eq!(bench.heartbeat(&leader), ErrorCode::NONE);
    bench.pass(1);
    assert_eq!(bench.heartbeat(&other), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(bench.heartbeat(&leader), ErrorCode::REBALANCE_IN_PROGRESS);
    let again = bench.send_join(join(&leader.member_id));
    assert_eq!(bench.joined(again).members.len(), 1);
}

#[test]
fn member_that_does_not_rejoin_is_out_at_the_rebalance_timeout() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    let again = bench.send_join(join(&leader.member_id));
    for _ in 0..7 {
        assert_eq!(bench.heartbeat(&other), ErrorCode::REBALANCE_IN_PROGRESS);
        bench.pass(9_000);
    }
    assert_eq!(bench.joined(again).members.len(), 1);
    assert_eq!(bench.heartbeat(&other), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn member_that_never_syncs_is_out_and_the_others_join_again() {
    let mut bench = Bench::new(config());
    let first = bench.send_join(join(""));
    let first = bench.member(first);
    let second = bench.send_join(join(""));
    bench.send_join(join(&first.member_id));
    let other = bench.member(second);
    let parked = bench.send_sync(&other, &[]);
    for _ in 0..7 {
        bench.heartbeat(&MemberRef { generation: 2, ..first.clone() });
        bench.pass(9_000);
    }
    assert_eq!(bench.synced(parked), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(bench.heartbeat(&first), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn old_generation_is_refused_everywhere() {
    let mut bench = Bench::new(config());
    let (leader, _) = bench.stable_pair();
    let old = MemberRef { generation: leader.generation - 1, ..leader };
    assert_eq!(bench.heartbeat(&old), ErrorCode::ILLEGAL_GENERATION);
    let sync = bench.send_sync(&old, &[]);
    assert_eq!(bench.synced(sync), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(bench.commit(&old, 0, 5), ErrorCode::ILLEGAL_GENERATION);
}

#[test]
fn protocol_that_nobody_shares_is_inconsistent() {
    let mut bench = Bench::new(config());
    bench.stable_pair();
    let foreign = vec![Protocol { name: "sticky".into(), metadata: Bytes::new() }];
    for wrong in [
        Join { protocols: foreign, ..join("") },
        Join { protocol_type: "connect".into(), ..join("") },
        Join { protocols: vec![], ..join("") },
    ] {
        let token = bench.send_join(wrong);
        assert_eq!(bench.joined(token).error, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
}

#[test]
fn protocol_with_most_votes_among_common_ones_wins() {
    let mut bench = Bench::new(GroupConfig::default());
    let with = |names: &[&str]| Join {
        protocols: names.iter().map(|name| Protocol { name: (*name).into(), metadata: Bytes::new() }).collect(),
        ..join("")
    };
    let tokens = [with(&["a", "b", "c"]), with(&["b", "a"]), with(&["b", "a", "d"])].map(|join| bench.send_join(join));
    bench.pass(3_000);
    bench.pass(3_000);
    for token in tokens {
        assert_eq!(bench.joined(token).protocol.as_deref(), Some("b"));
    }
}

#[test]
fn session_timeout_out_of_bounds_is_refused() {
    let mut bench = Bench::new(config());
    for session_timeout_ms in [5_999, 1_800_001, 0, -1] {
        let token = bench.send_join(Join { session_timeout_ms, ..join("") });
        assert_eq!(bench.joined(token).error, ErrorCode::INVALID_SESSION_TIMEOUT);
    }
    assert_eq!(bench.table.list().count(), 0);
}

#[test]
fn unknown_member_and_unknown_group_are_refused_alike() {
    let mut bench = Bench::new(config());
    let stranger = MemberRef { generation: 1, member_id: "x".into(), instance_id: None };
    for _ in 0..2 {
        let token = bench.send_join(join("x"));
        assert_eq!(bench.joined(token).error, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(bench.heartbeat(&stranger), ErrorCode::UNKNOWN_MEMBER_ID);
        let sync = bench.send_sync(&stranger, &[]);
        assert_eq!(bench.synced(sync), Err(ErrorCode::UNKNOWN_MEMBER_ID));
        assert_eq!(bench.leave("x", None), ErrorCode::UNKNOWN_MEMBER_ID);
        if bench.table.list().count() == 0 {
            bench.stable_pair();
        }
    }
}

#[test]
fn member_above_the_group_size_is_refused() {
    let mut bench = Bench::new(GroupConfig { members_max: 2, ..config() });
    bench.stable_pair();
    let token = bench.send_join(join(""));
    assert_eq!(bench.joined(token).error, ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn group_above_the_tenants_number_is_refused() {
    let mut bench = Bench::new(GroupConfig { groups_max: 1, ..config() });
    bench.stable_pair();
    let other = GroupId::new("h").unwrap();
    let token = bench.token();
    let effects = bench.table.join(&other, join(""), token, bench.now);
    bench.take(effects);
    assert_eq!(bench.joined(token).error, ErrorCode::POLICY_VIOLATION);
}

#[test]
fn leaving_member_starts_a_rebalance_and_the_last_one_empties_the_group() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    assert_eq!(bench.leave(&other.member_id, None), ErrorCode::NONE);
    assert_eq!(bench.heartbeat(&leader), ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(bench.leave(&leader.member_id, None), ErrorCode::NONE);
    assert_eq!(bench.state(), GroupState::Empty);
    bench.restart(config());
    assert_eq!(bench.state(), GroupState::Empty);
}

#[test]
fn static_member_that_comes_back_causes_no_rebalance_and_fences_its_shadow() {
    let mut bench = Bench::new(config());
    let token = bench.send_join(static_join("i1"));
    let old = MemberRef { instance_id: Some("i1".into()), ..bench.member(token) };
    bench.send_sync(&old, &[(&old.member_id, "share")]);
    let back = bench.send_join(static_join("i1"));
    let reply = bench.joined(back).clone();
    assert_eq!((reply.error, reply.generation, reply.skip_assignment), (ErrorCode::NONE, old.generation, true));
    assert_eq!((reply.members.len(), &reply.leader), (1, &reply.member_id));
    assert_ne!(reply.member_id, old.member_id);
    assert_eq!(bench.heartbeat(&old), ErrorCode::FENCED_INSTANCE_ID);
    let new = MemberRef { instance_id: Some("i1".into()), ..bench.member(back) };
    let sync = bench.send_sync(&new, &[]);
    assert_eq!(bench.synced(sync), Ok(&b"share"[..]));
    let older_client = bench.send_join(Join { can_skip_assignment: false, ..static_join("i1") });
    let reply = bench.joined(older_client);
    assert_eq!((&reply.leader, reply.skip_assignment), (&new.member_id, false));
}

#[test]
fn static_member_leaves_by_its_name() {
    let mut bench = Bench::new(config());
    bench.send_join(static_join("i1"));
    assert_eq!(bench.leave("", Some("i2")), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(bench.leave("wrong", Some("i1")), ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(bench.leave("", Some("i1")), ErrorCode::NONE);
    assert_eq!(bench.state(), GroupState::Empty);
}

#[test]
fn restarted_broker_keeps_generation_members_and_shares() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    assert_eq!(bench.commit(&other, 0, 42), ErrorCode::NONE);
    bench.restart(config());
    assert_eq!(bench.heartbeat(&leader), ErrorCode::NONE);
    let sync = bench.send_sync(&other, &[]);
    assert_eq!(bench.synced(sync), Ok(&b"b"[..]));
    assert_eq!(bench.offset(0), Some(42));
    bench.pass(10_000);
    assert_eq!(bench.heartbeat(&other), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn state_of_a_newer_format_is_refused() {
    let mut bench = Bench::new(config());
    bench.stable_pair();
    let now = bench.now;
    for value in bench.durable.values_mut() {
        *value = Bytes::from([&[2][..], &value[1..]].concat());
    }
    let error = GroupTable::load(config(), &bench.durable, now).unwrap_err();
    assert_eq!(error, LoadError::Format { format: 2 });
}

#[test]
fn cut_state_is_refused_at_every_length() {
    let mut bench = Bench::new(config());
    let (_, other) = bench.stable_pair();
    bench.commit(&other, 0, 1);
    for (key, value) in &bench.durable {
        for length in 0..value.len() {
            let cut = value.slice(..length);
            assert!(GroupTable::load(config(), [(key, &cut)], bench.now).is_err());
        }
    }
}

#[test]
fn consumer_without_a_group_commits_and_reads() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.commit(&nobody(), 0, 7), ErrorCode::NONE);
    assert_eq!(bench.offset(0), Some(7));
    bench.restart(config());
    assert_eq!(bench.offset(0), Some(7));
    assert_eq!(bench.table.offsets(&group()).count(), 1);
}

#[test]
fn commit_by_hand_under_a_living_group_is_refused() {
    let mut bench = Bench::new(config());
    bench.stable_pair();
    assert_eq!(bench.commit(&nobody(), 0, 7), ErrorCode::UNKNOWN_MEMBER_ID);
    let ghost = MemberRef { generation: 1, member_id: "x".into(), instance_id: None };
    assert_eq!(bench.commit(&ghost, 0, 7), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn commit_while_shares_are_given_out_waits_for_them() {
    let mut bench = Bench::new(config());
    let token = bench.send_join(join(""));
    let member = bench.member(token);
    assert_eq!(bench.commit(&member, 0, 7), ErrorCode::REBALANCE_IN_PROGRESS);
    bench.send_sync(&member, &[]);
    assert_eq!(bench.commit(&member, 0, 7), ErrorCode::NONE);
}

#[test]
fn commit_to_an_unknown_group_with_a_generation_is_illegal() {
    let mut bench = Bench::new(config());
    let ghost = MemberRef { generation: 1, member_id: "x".into(), instance_id: None };
    assert_eq!(bench.commit(&ghost, 0, 7), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(bench.table.list().count(), 0);
}

#[test]
fn offsets_have_bounds() {
    let mut bench = Bench::new(GroupConfig { offsets_max: 1, offset_metadata_bytes_max: 1, ..config() });
    assert_eq!(bench.commit(&nobody(), 0, 1), ErrorCode::NONE);
    assert_eq!(bench.commit(&nobody(), 0, 2), ErrorCode::NONE);
    assert_eq!(bench.commit(&nobody(), 1, 1), ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
    bench.table = GroupTable::load(GroupConfig { offset_metadata_bytes_max: 0, ..config() }, [], bench.now).unwrap();
    assert_eq!(bench.commit(&nobody(), 0, 1), ErrorCode::OFFSET_METADATA_TOO_LARGE);
}

#[test]
fn unused_offsets_are_forgotten_after_their_retention() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    bench.commit(&leader, 0, 7);
    let week = 7 * 24 * 3_600_000;
    bench.now.wall_ms += week;
    let effects = bench.table.expire_offsets(bench.now);
    assert!(effects.records.is_empty(), "a living group keeps its offsets");
    bench.leave(&leader.member_id, None);
    bench.leave(&other.member_id, None);
    bench.now.wall_ms += week - 1;
    let effects = bench.table.expire_offsets(bench.now);
    assert!(effects.records.is_empty());
    bench.now.wall_ms += 1;
    let effects = bench.table.expire_offsets(bench.now);
    bench.take(effects);
    assert!(bench.durable.is_empty());
    assert_eq!(bench.table.list().count(), 0);
}

fn delete_offsets(bench: &mut Bench, topic: &str) -> (ErrorCode, Vec<ErrorCode>) {
    let token = bench.token();
    let one = OffsetToDelete { partition: partition(0), topic_name: topic.into() };
    let effects = bench.table.delete_offsets(&group(), &[one], token, bench.now);
    bench.take(effects);
    let Some(Reply::DeleteOffsets { error, partitions }) = bench.answers.get(&token) else { panic!("no answer") };
    (*error, partitions.clone())
}

#[test]
fn offsets_of_a_topic_that_members_read_are_not_deleted() {
    let mut bench = Bench::new(config());
    assert_eq!(delete_offsets(&mut bench, "orders"), (ErrorCode::GROUP_ID_NOT_FOUND, vec![]));
    let (leader, _) = bench.stable_pair();
    bench.commit(&leader, 0, 7);
    let subscribed = vec![ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC];
    assert_eq!(delete_offsets(&mut bench, "orders"), (ErrorCode::NONE, subscribed));
    assert_eq!(delete_offsets(&mut bench, "other"), (ErrorCode::NONE, vec![ErrorCode::NONE]));
    assert_eq!(bench.offset(0), None);
}

#[test]
fn only_an_empty_group_is_deleted_and_then_wholly() {
    let mut bench = Bench::new(config());
    let (leader, other) = bench.stable_pair();
    bench.commit(&leader, 0, 7);
    let ids = [group(), GroupId::new("none").unwrap()];
    let token = bench.token();
    let effects = bench.table.delete_groups(&ids, token, bench.now);
    bench.take(effects);
    let codes = Reply::DeleteGroups(vec![ErrorCode::NON_EMPTY_GROUP, ErrorCode::GROUP_ID_NOT_FOUND]);
    assert_eq!(bench.answers[&token], codes);
    bench.leave(&leader.member_id, None);
    bench.leave(&other.member_id, None);
    let token = bench.token();
    let effects = bench.table.delete_groups(&ids[..1], token, bench.now);
    bench.take(effects);
    assert_eq!(bench.answers[&token], Reply::DeleteGroups(vec![ErrorCode::NONE]));
    assert!(bench.durable.is_empty() && bench.table.describe(&group()).is_none());
}

#[test]
fn deleted_topic_takes_its_offsets_along() {
    let mut bench = Bench::new(config());
    bench.commit(&nobody(), 0, 7);
    bench.commit(&nobody(), 1, 7);
    let effects = bench.table.topic_deleted(TopicId::from_bytes([9; 16]), bench.now);
    bench.take(effects);
    assert!(bench.durable.is_empty() && bench.table.list().count() == 0);
}

#[test]
fn shares_are_told_only_together_with_the_record_that_keeps_them() {
    let mut bench = Bench::new(config());
    let token = bench.send_join(join(""));
    let member = bench.member(token);
    let sync = Sync { member, protocol_type: None, protocol: None, assignments: vec![] };
    let token = bench.token();
    let effects = bench.table.sync(&group(), sync, token, bench.now);
    assert_eq!((effects.records.len(), effects.replies.len()), (1, 1));
}

/// One step of a history nobody wrote.
#[derive(Clone, Debug)]
enum Step {
    Join { slot: usize, is_static: bool, id_required: bool },
    Sync { slot: usize },
    Heartbeat { slot: usize },
    Leave { slot: usize },
    Commit { slot: usize },
    Pass { ms: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0_usize..4;
    prop_oneof![
        4 => (slot.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, is_static, id_required)| Step::Join { slot, is_static, id_required }),
        4 => slot.clone().prop_map(|slot| Step::Sync { slot }),
        2 => slot.clone().prop_map(|slot| Step::Heartbeat { slot }),
        1 => slot.clone().prop_map(|slot| Step::Leave { slot }),
        1 => slot.prop_map(|slot| Step::Commit { slot }),
        2 => (0_u64..20_000).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Restart),
    ]
}

/// A client that remembers what it was told last.
#[derive(Clone, Default)]
struct Client {
    member_id: Arc<str>,
    generation: i32,
    instance_id: Option<Arc<str>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn invariants_hold_in_every_history(
        steps in prop::collection::vec(step(), 1..80),
        delay in prop_oneof![Just(0), Just(3_000_u64)],
    ) {
        let config = GroupConfig { initial_rebalance_delay_ms: delay, members_max: 3, ..GroupConfig::default() };
        let mut bench = Bench::new(config.clone());
        let mut clients = vec![Client::default(); 4];
        let mut waiting: BTreeMap<ReplyToken, (usize, u64)> = BTreeMap::new();
        let mut generation = 0;
        let mut leaders: BTreeMap<i32, BTreeSet<Arc<str>>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Join { slot, is_static, id_required } => {
                    let instance_id = is_static.then(|| Arc::from(format!("i{slot}")));
                    let client = &mut clients[slot];
                    if client.instance_id != instance_id {
                        *client = Client { instance_id: instance_id.clone(), ..Client::default() };
                    }
                    let join = Join { instance_id, id_required, ..join(&client.member_id) };
                    let token = bench.send_join(join);
                    waiting.insert(token, (slot, bench.now.monotonic_ms));
                }
                Step::Sync { slot } => {
                    let Client { member_id, generation, instance_id } = clients[slot].clone();
                    let token = bench.send_sync(&MemberRef { generation, member_id, instance_id }, &[]);
                    waiting.insert(token, (slot, bench.now.monotonic_ms));
                }
                Step::Heartbeat { slot } => {
                    let Client { member_id, generation, instance_id } = clients[slot].clone();
                    bench.heartbeat(&MemberRef { generation, member_id, instance_id });
                }
                Step::Leave { slot } => {
                    let client = clients[slot].clone();
                    bench.leave(&client.member_id, client.instance_id.as_deref());
                }
                Step::Commit { slot } => {
                    let Client { member_id, generation, instance_id } = clients[slot].clone();
                    bench.commit(&MemberRef { generation, member_id, instance_id }, 0, 1);
                }
                Step::Pass { ms } => {
                    // As the caller does: from deadline to deadline.
                    let until = bench.now.monotonic_ms + ms;
                    while let Some(at) = bench.table.next_deadline_ms().filter(|at| *at <= until) {
                        bench.pass(at.saturating_sub(bench.now.monotonic_ms));
                        prop_assert!(bench.table.next_deadline_ms() != Some(at), "a deadline stays due");
                    }
                    bench.pass(until - bench.now.monotonic_ms);
                }
                Step::Restart => {
                    // Connections end with the broker; parked replies with them.
                    waiting.clear();
                    let clock = bench.now.monotonic_ms;
                    bench.restart(config.clone());
                    bench.now.monotonic_ms = clock;
                    generation = 0;
                    leaders.clear();
                    bench.table = GroupTable::load(config.clone(), &bench.durable, bench.now).unwrap();
                }
            }
            let answered: Vec<_> = waiting.keys().copied().filter(|token| bench.answers.contains_key(token)).collect();
            for token in answered {
                let (slot, _) = waiting.remove(&token).unwrap();
                if let Reply::Join(reply) = &bench.answers[&token] {
                    if reply.error == ErrorCode::NONE {
                        prop_assert!(reply.generation >= generation, "the generation fell");
                        generation = reply.generation;
                        clients[slot].generation = reply.generation;
                        if !reply.members.is_empty() {
                            prop_assert_eq!(&reply.leader, &reply.member_id);
                            if !reply.skip_assignment {
                                leaders.entry(reply.generation).or_default().insert(reply.leader.clone());
                            }
                        }
                    }
                    clients[slot].member_id = match reply.error {
                        ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID => "".into(),
                        _ => reply.member_id.clone(),
                    };
                }
            }
            prop_assert!(leaders.values().all(|leaders| leaders.len() == 1), "two leaders in one generation");
            // 60 s of rebalance, once more for newcomers, and no reply is parked any longer.
            let late = waiting.values().find(|(_, since)| bench.now.monotonic_ms - since > 120_000);
            prop_assert!(late.is_none(), "a reply is parked beyond its deadline");
            if let Some(described) = bench.table.describe(&group()) {
                prop_assert!(described.members.len() <= 2 * config.members_max);
                prop_assert_eq!(described.members.is_empty(), described.state == GroupState::Empty
                    || (described.state == GroupState::PreparingRebalance && described.members.is_empty()));
            }
        }
        // Let everything run out: every parked request is answered, every member gone.
        for _ in 0..100 {
            let Some(at) = bench.table.next_deadline_ms() else { break };
            bench.pass(at.saturating_sub(bench.now.monotonic_ms));
        }
        prop_assert_eq!(bench.table.next_deadline_ms(), None);
        prop_assert!(waiting.keys().all(|token| bench.answers.contains_key(token)));
    }
}
