//! What time does to a group: expired ids, silent members, passed deadlines, old offsets, forgotten groups.

use schloss_core::PartitionId;

use crate::group::{Cx, Group, Phase};
use crate::{layout, limits};

impl Group {
    /// Does everything that is due.
    pub fn tick(&mut self, cx: &mut Cx<'_>) {
        self.expire_pending(cx);
        self.expire_members(cx);
        if self.join_deadline_ms.is_some_and(|due| due <= cx.now_ms) {
            self.join_deadline_passed(cx);
        }
        if self.sync_deadline_ms.is_some_and(|due| due <= cx.now_ms) {
            self.sync_deadline_passed(cx);
        }
        if self.phase == Phase::Empty && self.cleanup_ms <= cx.now_ms {
            self.clean(cx);
        }
    }

    fn expire_pending(&mut self, cx: &mut Cx<'_>) {
        let before = self.pending.len();
        self.pending.retain(|_, due| *due > cx.now_ms);
        if self.pending.len() != before {
            self.maybe_complete_join(cx);
        }
    }

    fn expire_members(&mut self, cx: &mut Cx<'_>) {
        let due = |group: &Self, id: &str| {
            group.members.get(id).and_then(|member| member.expires_ms()).is_some_and(|due| due <= cx.now_ms)
        };
        let silent: Vec<String> = self.members.keys().filter(|id| due(self, id)).cloned().collect();
        for id in silent {
            // An earlier removal may have completed a rebalance and so given this one a new session.
            let still = self.members.get(&id).and_then(|member| member.expires_ms()).is_some_and(|due| due <= cx.now_ms);
            if still {
                self.remove_member(cx, &id);
            }
        }
    }

    /// Expires offsets of an empty group; removes it when nothing is left.
    fn clean(&mut self, cx: &mut Cx<'_>) {
        let room = limits::RECORDS_PER_TICK_MAX.saturating_sub(cx.effects.records.len()).max(1);
        let retention_ms = cx.limits.offsets_retention_ms;
        // SPEC: KIP-211. Groups that had members count from when they became empty, plain committers from each commit.
        let since = self.protocol_type.as_ref().map(|_| self.since_ms);
        let age = |commit_ms: i64| cx.now_ms.saturating_sub(since.map_or(commit_ms, |since| since.max(commit_ms)));
        let old = self.offsets.iter().filter(|(_, offset)| age(offset.commit_ms) >= retention_ms).map(|(id, _)| *id);
        let old: Vec<PartitionId> = old.take(room).collect();
        let more = old.len() == room;
        for partition in old {
            self.offsets.remove(&partition);
            cx.effects.records.push(layout::offset_tombstone(cx.name, partition));
        }
        self.cleanup_ms = if more { cx.now_ms } else { cx.after(limits::CLEANUP_INTERVAL_MS) };
        if self.offsets.is_empty() && self.pending.is_empty() {
            self.die(cx);
        }
    }

    /// Removes the group; what is left of its state goes with it.
    pub fn die(&mut self, cx: &mut Cx<'_>) {
        for partition in std::mem::take(&mut self.offsets).into_keys() {
            cx.effects.records.push(layout::offset_tombstone(cx.name, partition));
        }
        if self.recorded {
            cx.effects.records.push(layout::group_tombstone(cx.name));
        }
        self.dead = true;
    }
}
