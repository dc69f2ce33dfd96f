//! Tables over every phase and request, and random lives.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const LIVE: Live = Live { pid: 7, started: 100 * SECOND };

fn exit(code: i32, at: Time) -> Exit {
    Exit { code, oom: false, at }
}

fn life(phase: Phase) -> Life {
    Life { phase, ..Life::default() }
}

fn phases() -> Vec<Phase> {
    let last = exit(3, 50 * SECOND);
    vec![
        Phase::Created,
        Phase::Starting { last: None },
        Phase::Running(LIVE),
        Phase::Paused(LIVE),
        Phase::Restarting { after: last, attempt: 1, due: 60 * SECOND },
        Phase::Exited(last),
        Phase::Removing { last: Some(last) },
    ]
}

/// One line a phase: what the input does there.
fn table(input: Input, policy: &Policy) -> String {
    let mut text = String::new();
    for phase in phases() {
        let from = phase.status();
        let line = match step(&life(phase), input, policy, 101 * SECOND) {
            Ok((next, effects)) => format!("{from:<10} -> {:<10} {effects:?}", next.phase.status()),
            Err(refused) => format!("{from:<10} -> refused: {refused:?}"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn check(input: Input, expected: Expect) {
    expected.assert_eq(&table(input, &Policy::default()));
}

#[test]
fn start() {
    check(
        Input::Start,
        expect![[r#"
        created    -> created    [Launch]
        created    -> refused: AlreadyRunning
        running    -> refused: AlreadyRunning
        paused     -> refused: StartPaused
        restarting -> refused: AlreadyRunning
        exited     -> exited     [Launch]
        removing   -> refused: BeingRemoved
    "#]],
    );
}

#[test]
fn stop() {
    check(
        Input::Stop { signal: 15, grace: Some(10 * SECOND), then_start: false },
        expect![[r#"
        created    -> refused: AlreadyStopped
        created    -> created    [Signal(9)]
        running    -> running    [Commit, Signal(15), ArmGrace(10000000000)]
        paused     -> paused     [Commit, Signal(15), Thaw, ArmGrace(10000000000)]
        restarting -> exited     [Commit]
        exited     -> refused: AlreadyStopped
        removing   -> refused: BeingRemoved
    "#]],
    );
}

#[test]
fn restart() {
    check(
        Input::Stop { signal: 15, grace: None, then_start: true },
        expect![[r#"
        created    -> created    [Launch]
        created    -> refused: AlreadyRunning
        running    -> running    [Commit, Signal(15)]
        paused     -> paused     [Commit, Signal(15), Thaw]
        restarting -> exited     [Launch]
        exited     -> exited     [Launch]
        removing   -> refused: BeingRemoved
    "#]],
    );
}

#[test]
fn kill_with_a_signal_that_ends_it() {
    check(
        Input::Kill { signal: 9, stops: true },
        expect![[r#"
        created    -> refused: NotRunning
        created    -> refused: NotRunning
        running    -> running    [Signal(9)]
        paused     -> paused     [Signal(9), Thaw]
        restarting -> exited     [Commit]
        exited     -> refused: NotRunning
        removing   -> refused: NotRunning
    "#]],
    );
}

#[test]
fn kill_with_another_signal_does_not_wake_a_paused_one() {
    check(
        Input::Kill { signal: 10, stops: false },
        expect![[r#"
        created    -> refused: NotRunning
        created    -> refused: NotRunning
        running    -> running    [Signal(10)]
        paused     -> paused     [Signal(10)]
        restarting -> exited     [Commit]
        exited     -> refused: NotRunning
        removing   -> refused: NotRunning
    "#]],
    );
}

#[test]
fn pause() {
    check(
        Input::Pause,
        expect![[r#"
        created    -> refused: NotRunning
        created    -> refused: NotRunning
        running    -> running    [Freeze]
        paused     -> refused: AlreadyPaused
        restarting -> refused: Restarting
        exited     -> refused: NotRunning
        removing   -> refused: NotRunning
    "#]],
    );
}

#[test]
fn unpause() {
    check(
        Input::Unpause,
        expect![[r#"
        created    -> refused: NotPaused
        created    -> refused: NotPaused
        running    -> refused: NotPaused
        paused     -> paused     [Thaw]
        restarting -> refused: NotPaused
        exited     -> refused: NotPaused
        removing   -> refused: NotPaused
    "#]],
    );
}

#[test]
fn frozen_and_thawed() {
    check(
        Input::Frozen,
        expect![[r#"
        created    -> created    []
        created    -> created    []
        running    -> paused     [Commit]
        paused     -> paused     []
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
    check(
        Input::Thawed,
        expect![[r#"
        created    -> created    []
        created    -> created    []
        running    -> running    []
        paused     -> running    [Commit]
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
}

#[test]
fn remove() {
    check(
        Input::Remove { force: false },
        expect![[r#"
        created    -> removing   [Commit, Delete]
        created    -> refused: RemoveRunning
        running    -> refused: RemoveRunning
        paused     -> refused: RemovePaused
        restarting -> refused: RemoveRestarting
        exited     -> removing   [Commit, Delete]
        removing   -> removing   [Commit, Delete]
    "#]],
    );
}

#[test]
fn remove_by_force() {
    check(
        Input::Remove { force: true },
        expect![[r#"
        created    -> removing   [Commit, Delete]
        created    -> created    [Commit, Signal(9)]
        running    -> running    [Commit, Signal(9)]
        paused     -> paused     [Commit, Signal(9), Thaw]
        restarting -> removing   [Commit, Delete]
        exited     -> removing   [Commit, Delete]
        removing   -> removing   [Commit, Delete]
    "#]],
    );
}

#[test]
fn exited() {
    check(
        Input::Exited(exit(1, 102 * SECOND)),
        expect![[r#"
        created    -> created    []
        created    -> exited     [Commit, Finish(Exit { code: 1, oom: false, at: 102000000000 })]
        running    -> exited     [Commit, Finish(Exit { code: 1, oom: false, at: 102000000000 })]
        paused     -> exited     [Commit, Finish(Exit { code: 1, oom: false, at: 102000000000 })]
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
}

#[test]
fn started_and_start_failed() {
    check(
        Input::Started(LIVE),
        expect![[r#"
        created    -> created    []
        created    -> running    []
        running    -> running    []
        paused     -> paused     []
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
    check(
        Input::StartFailed,
        expect![[r#"
        created    -> created    []
        created    -> created    [Commit]
        running    -> running    []
        paused     -> paused     []
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
}

#[test]
fn grace_over_and_timer() {
    check(
        Input::GraceOver,
        expect![[r#"
        created    -> created    []
        created    -> created    []
        running    -> running    [Signal(9)]
        paused     -> paused     [Signal(9), Thaw]
        restarting -> restarting []
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
    check(
        Input::Timer,
        expect![[r#"
        created    -> created    []
        created    -> created    []
        running    -> running    []
        paused     -> paused     []
        restarting -> exited     [Launch]
        exited     -> exited     []
        removing   -> removing   []
    "#]],
    );
}

#[test]
fn found_alive_after_a_crash() {
    check(
        Input::Observed(Observed::Alive { live: LIVE, frozen: false }),
        expect![[r#"
        created    -> running    []
        created    -> running    []
        running    -> running    []
        paused     -> running    []
        restarting -> running    []
        exited     -> running    []
        removing   -> removing   [Signal(9)]
    "#]],
    );
    check(
        Input::Observed(Observed::Alive { live: LIVE, frozen: true }),
        expect![[r#"
        created    -> paused     []
        created    -> paused     []
        running    -> paused     []
        paused     -> paused     []
        restarting -> paused     []
        exited     -> paused     []
        removing   -> removing   [Signal(9)]
    "#]],
    );
}

#[test]
fn found_ended_after_a_crash() {
    check(
        Input::Observed(Observed::Ended(exit(4, 90 * SECOND))),
        expect![[r#"
        created    -> created    []
        created    -> exited     [Commit, Finish(Exit { code: 4, oom: false, at: 90000000000 })]
        running    -> exited     [Commit, Finish(Exit { code: 4, oom: false, at: 90000000000 })]
        paused     -> exited     [Commit, Finish(Exit { code: 4, oom: false, at: 90000000000 })]
        restarting -> restarting [ArmTimer(60000000000)]
        exited     -> exited     []
        removing   -> removing   [Delete]
    "#]],
    );
}

#[test]
fn found_nothing_after_a_crash() {
    check(
        Input::Observed(Observed::Nothing),
        expect![[r#"
        created    -> created    []
        created    -> created    [Commit]
        running    -> exited     [Commit, Finish(Exit { code: 255, oom: false, at: 101000000000 })]
        paused     -> exited     [Commit, Finish(Exit { code: 255, oom: false, at: 101000000000 })]
        restarting -> restarting [ArmTimer(60000000000)]
        exited     -> exited     []
        removing   -> removing   [Delete]
    "#]],
    );
}

#[test]
fn boot_starts_what_is_always_to_run() {
    let always = Policy { restart: RestartPolicy::Always, auto_remove: false };
    expect![[r#"
        created    -> created    []
        created    -> created    []
        running    -> running    []
        paused     -> paused     []
        restarting -> restarting []
        exited     -> exited     [Launch]
        removing   -> removing   []
    "#]]
    .assert_eq(&table(Input::Boot, &always));
    let unless = Policy { restart: RestartPolicy::UnlessStopped, auto_remove: false };
    assert!(!table(Input::Boot, &unless).contains("Launch"));
}

/// The delays of a container that dies at once, by the reference's rule.
#[test]
fn delays_double_up_to_a_minute_and_a_long_run_forgets_them() {
    let policy = Policy { restart: RestartPolicy::Always, auto_remove: false };
    let mut now = 0;
    let mut life = life(Phase::Starting { last: None });
    let mut delays = Vec::new();
    for run in 0..13 {
        (life, _) = step(&life, Input::Started(Live { pid: 9, started: now }), &policy, now).unwrap();
        now += if run == 11 { LONG_RUN } else { SECOND };
        (life, _) = step(&life, Input::Exited(exit(0, now)), &policy, now).unwrap();
        let Phase::Restarting { due, attempt, .. } = life.phase else { panic!("{life:?}") };
        assert_eq!(attempt, run + 1);
        delays.push((due - now) / (SECOND / 10));
        now = due;
        (life, _) = step(&life, Input::Timer, &policy, now).unwrap();
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 1, 2]);
}

#[test]
fn on_failure_counts_its_attempts_and_leaves_success_alone() {
    let policy = Policy { restart: RestartPolicy::OnFailure { attempts: 2 }, auto_remove: false };
    let mut now = 0;
    let mut life = life(Phase::Running(Live { pid: 1, started: 0 }));
    for _ in 0..2 {
        (life, _) = step(&life, Input::Exited(exit(1, now)), &policy, now).unwrap();
        assert_eq!(life.phase.status(), "restarting");
        now += LONGEST_DELAY;
        (life, _) = step(&life, Input::Timer, &policy, now).unwrap();
        (life, _) = step(&life, Input::Started(Live { pid: 1, started: now }), &policy, now).unwrap();
    }
    let (success, _) =
        step(&Life { restarts: 0, ..life }, Input::Exited(exit(0, now)), &policy, now).unwrap();
    assert_eq!(success.phase.status(), "exited");
    let (spent, _) = step(&life, Input::Exited(exit(1, now)), &policy, now).unwrap();
    assert_eq!((spent.phase.status(), spent.restarts), ("exited", 2));
    let (again, _) = step(&spent, Input::Start, &policy, now).unwrap();
    assert_eq!(again.restarts, 0);
}

#[test]
fn what_somebody_stopped_stays_stopped_whatever_the_policy() {
    for restart in
        [RestartPolicy::Always, RestartPolicy::UnlessStopped, RestartPolicy::OnFailure { attempts: 0 }]
    {
        let policy = Policy { restart, auto_remove: false };
        let asked = Input::Stop { signal: 15, grace: None, then_start: false };
        let (stopping, _) = step(&life(Phase::Running(LIVE)), asked, &policy, 0).unwrap();
        let (rest, effects) = step(&stopping, Input::Exited(exit(143, 0)), &policy, 0).unwrap();
        assert_eq!((rest.phase.status(), rest.stopped, rest.wish), ("exited", true, Wish::Policy));
        assert_eq!(effects, [Effect::Commit, Effect::Finish(exit(143, 0))]);
    }
}

#[test]
fn an_end_is_followed_by_what_was_wished() {
    let remove = Policy { auto_remove: true, ..Policy::default() };
    let (gone, effects) = step(&life(Phase::Running(LIVE)), Input::Exited(exit(0, 0)), &remove, 0).unwrap();
    assert_eq!(gone.phase.status(), "removing");
    assert_eq!(effects, [Effect::Commit, Effect::Finish(exit(0, 0)), Effect::Delete]);
    let restart = Life { wish: Wish::Start, ..life(Phase::Running(LIVE)) };
    // A restart that somebody asked for does not remove, and is not the policy's.
    let (again, effects) = step(&restart, Input::Exited(exit(0, 0)), &remove, 0).unwrap();
    assert_eq!((again.phase.status(), again.restarts, again.wish), ("exited", 0, Wish::Policy));
    assert_eq!(effects, [Effect::Commit, Effect::Finish(exit(0, 0)), Effect::Launch]);
    let (failed, effects) =
        step(&life(Phase::Starting { last: None }), Input::StartFailed, &remove, 0).unwrap();
    assert_eq!((failed.phase.status(), effects), ("removing", vec![Effect::Commit, Effect::Delete]));
}

fn any_exit() -> impl Strategy<Value = Exit> {
    (0..256i32, any::<bool>(), any::<i64>()).prop_map(|(code, oom, at)| Exit { code, oom, at })
}

fn any_input() -> impl Strategy<Value = Input> {
    let live = (1..1000i32, any::<i64>()).prop_map(|(pid, started)| Live { pid, started });
    prop_oneof![
        Just(Input::Start),
        live.clone().prop_map(Input::Started),
        Just(Input::StartFailed),
        any_exit().prop_map(Input::Exited),
        (1..65i32, any::<Option<i64>>(), any::<bool>()).prop_map(|(signal, grace, then_start)| Input::Stop {
            signal,
            grace,
            then_start
        }),
        (1..65i32, any::<bool>()).prop_map(|(signal, stops)| Input::Kill { signal, stops }),
        Just(Input::GraceOver),
        Just(Input::Pause),
        Just(Input::Frozen),
        Just(Input::Unpause),
        Just(Input::Thawed),
        Just(Input::Timer),
        any::<bool>().prop_map(|force| Input::Remove { force }),
        (live, any::<bool>()).prop_map(|(live, frozen)| Input::Observed(Observed::Alive { live, frozen })),
        any_exit().prop_map(|exit| Input::Observed(Observed::Ended(exit))),
        Just(Input::Observed(Observed::Nothing)),
        Just(Input::Boot),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let restart = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
        (0..4u32).prop_map(|attempts| RestartPolicy::OnFailure { attempts }),
    ];
    (restart, any::<bool>()).prop_map(|(restart, auto_remove)| Policy { restart, auto_remove })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: nothing panics, each run's exit is told exactly once
    /// and kept, a removal is never forgotten, and a delay is never longer than a minute.
    #[test]
    fn no_sequence_panics_or_loses_an_exit(
        inputs in prop::collection::vec((any_input(), any::<i64>()), 0..60), policy in any_policy()
    ) {
        let mut now = Life::default();
        for (input, time) in inputs {
            let had_process = matches!(now.phase, Phase::Running(_) | Phase::Paused(_) | Phase::Starting { .. });
            let Ok((next, effects)) = step(&now, input, &policy, time) else { continue };
            let told: Vec<_> = effects.iter().filter_map(|e| match e { Effect::Finish(exit) => Some(*exit), _ => None }).collect();
            match input {
                Input::Exited(exit) | Input::Observed(Observed::Ended(exit)) if had_process => {
                    prop_assert_eq!(&told[..], &[exit]);
                    prop_assert_eq!(next.phase.exit(), Some(exit));
                }
                Input::Observed(Observed::Nothing) if now.phase.live().is_some() => prop_assert_eq!(told.len(), 1),
                Input::Exited(_) => prop_assert!(told.len() <= 1),
                _ => prop_assert!(told.is_empty()),
            }
            if matches!(now.phase, Phase::Removing { .. }) {
                prop_assert_eq!(next.phase.status(), "removing");
            }
            // What is to be deleted is committed as being removed before, or was already.
            if let Some(at) = effects.iter().position(|e| *e == Effect::Delete) {
                prop_assert_eq!(next.phase.status(), "removing");
                let committed = effects[..at].contains(&Effect::Commit) || matches!(now.phase, Phase::Removing { .. });
                prop_assert!(committed);
            }
            if let (Phase::Restarting { due, .. }, false) = (next.phase, matches!(now.phase, Phase::Restarting { .. })) {
                prop_assert!(due.saturating_sub(time) <= LONGEST_DELAY);
            }
            // A pid exists exactly where a process does.
            prop_assert_eq!(next.phase.live().is_some(), matches!(next.phase, Phase::Running(_) | Phase::Paused(_)));
            now = next;
        }
    }
}

#[test]
fn the_next_daemon_goes_on_with_a_stop() {
    let policy = Policy::default();
    let stop = Input::Stop { signal: 15, grace: Some(10 * SECOND), then_start: true };
    let (asked, _) = step(&life(Phase::Running(LIVE)), stop, &policy, 101 * SECOND).unwrap();
    let seen =
        |now| step(&asked, Input::Observed(Observed::Alive { live: LIVE, frozen: false }), &policy, now);
    let (next, effects) = seen(104 * SECOND).unwrap();
    assert_eq!(effects, [Effect::Signal(15), Effect::ArmGrace(7 * SECOND)]);
    assert_eq!(next.wish, Wish::Start);
    assert_eq!(seen(500 * SECOND).unwrap().1, [Effect::Signal(15), Effect::ArmGrace(0)]);
    // The clock was set back meanwhile.
    assert_eq!(seen(0).unwrap().1, [Effect::Signal(15), Effect::ArmGrace(10 * SECOND)]);
    let (restarted, effects) =
        step(&next, Input::Exited(exit(0, 105 * SECOND)), &policy, 105 * SECOND).unwrap();
    assert_eq!(restarted.stopping, None);
    assert_eq!(effects.last(), Some(&Effect::Launch));
    let for_ever = Input::Stop { signal: 15, grace: None, then_start: false };
    let (asked, _) = step(&life(Phase::Running(LIVE)), for_ever, &policy, 101 * SECOND).unwrap();
    let frozen = Input::Observed(Observed::Alive { live: LIVE, frozen: true });
    assert_eq!(step(&asked, frozen, &policy, 104 * SECOND).unwrap().1, [Effect::Signal(15), Effect::Thaw]);
}
