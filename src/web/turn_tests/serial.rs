//! Apps that are built one at a time, in the order of their events' coming.

use std::time::Duration;

use super::World;
use crate::timeline::protocol::{AttemptState, BuildState, Claim, ClaimAnswer, LEASE};
use crate::web::turn::Refusal;

#[tokio::test]
async fn of_two_that_ask_at_once_one_goes() {
    let world = World::new("").await;
    let (one, two) = tokio::join!(world.claim_with("serial-1", |_| ()), world.claim_with("serial-2", |_| ()));
    let goes = [one.1, two.1].map(|answer| matches!(answer, ClaimAnswer::Go { .. }));
    assert_eq!(goes.iter().filter(|&&goes| goes).count(), 1, "{goes:?}");
}

#[tokio::test]
async fn builds_of_a_serial_app_run_in_the_order_of_their_coming() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    let reason = world.waits("serial-2").await;
    assert_eq!(reason, "build serial-1 of the same app is running (policy serial)");
    world.waits("serial-3").await;
    world.goes("web-1").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    // It asks first, and is not the first.
    let reason = world.waits("serial-3").await;
    assert_eq!(reason, "build serial-2 of the same app comes before it (policy serial)");
    let second = world.goes("serial-2").await;
    assert_eq!(world.build("serial-2").await.waiting, None);
    world.waits("serial-3").await;
    world.ends("serial-2", second, AttemptState::Published).await;
    world.goes("serial-3").await;
}

#[tokio::test]
async fn what_was_enqueued_comes_before_what_asks_first() {
    let mut world = World::new("").await;
    world.enqueue("serial-1").await;
    world.enqueue("serial-2").await;
    world.waits("serial-2").await;
    world.goes("serial-1").await;
}

#[tokio::test]
async fn nobody_waits_for_ever_for_one_that_does_not_come_again() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.pass(50);
    world.waits("serial-3").await;
    world.pass(11);
    // It has not asked for a minute: perhaps its event was purged, or no slot was free.
    assert_eq!(
        (world.build("serial-2").await.waiting, world.state("serial-2").await),
        (None, BuildState::Queued)
    );
    world.waits("serial-3").await;
    world.pass(10);
    // Put off a minute later, it is here again, and the other one was not before it.
    let third = world.goes("serial-3").await;
    world.waits("serial-2").await;
    world.ends("serial-3", third, AttemptState::Published).await;
    world.goes("serial-2").await;
}

#[tokio::test]
async fn a_place_in_line_outlasts_any_time_in_which_no_slot_is_free() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    for _ in 0..60 {
        world.pass(20);
        world.ends("serial-1", first, AttemptState::Building).await;
    }
    world.ends("serial-1", first, AttemptState::Published).await;
    // It came only now, and says nothing of what stood in the queue before it.
    let reason = world.waits("serial-3").await;
    assert_eq!(reason, "build serial-2 of the same app comes before it (policy serial)");
    world.goes("serial-2").await;
}

#[tokio::test]
async fn one_that_does_not_come_again_is_waited_for_once() {
    let mut world = World::new("max_running = 1").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.pass(600);
    world.waits("web-1").await;
    world.pass(10);
    let web = world.goes("web-1").await;
    world.ends("web-1", web, AttemptState::Published).await;
    for name in ["web-2", "serial-3"] {
        let attempt = world.goes(name).await;
        world.ends(name, attempt, AttemptState::Published).await;
    }
    world.goes("serial-2").await;
}

#[tokio::test]
async fn what_was_given_back_says_nothing_of_the_queues_end() {
    let mut world = World::new("max_running = 2").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    let web = world.goes("web-1").await;
    for _ in 0..4 {
        world.pass(20);
        world.ends("serial-1", first, AttemptState::Building).await;
        world.ends("web-1", web, AttemptState::Building).await;
    }
    // It comes at once, to the queue's head.
    world.ends("web-1", web, AttemptState::Released).await;
    world.goes("web-1").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.waits("serial-3").await;
    world.goes("serial-2").await;
}

#[tokio::test]
async fn one_that_is_to_be_tried_again_lets_others_go_and_keeps_its_place() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Retrying).await;
    let shown = world.build("serial-1").await;
    assert_eq!(
        shown.retry_at.unwrap().unix_timestamp(),
        (world.now + Duration::from_secs(10)).unix_timestamp()
    );
    let second = world.goes("serial-2").await;
    world.waits("serial-3").await;
    world.waits("serial-1").await;
    let shown = world.build("serial-1").await;
    assert_eq!(
        (shown.state, shown.retry_at),
        (BuildState::Retrying, None),
        "it waits for something else now"
    );
    world.ends("serial-2", second, AttemptState::Published).await;
    world.waits("serial-3").await;
    world.goes("serial-1").await;
}

#[tokio::test]
async fn one_that_was_given_back_keeps_its_place() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Released).await;
    assert!(world.waits("serial-2").await.starts_with("build serial-1 "));
    world.goes("serial-1").await;
}

#[tokio::test]
async fn what_has_fallen_silent_is_fenced_before_the_next_of_a_serial_app_goes() {
    let mut world = World::new("").await;
    let silent = world.goes("serial-1").await;
    let other = world.goes("web-1").await;
    world.pass(31);
    world.goes("serial-2").await;
    assert_eq!(world.report("serial-1", silent, AttemptState::Building).await, Err(Refusal::Fenced));
    assert_eq!(world.state("serial-1").await, BuildState::Queued);
    world.ends("web-1", other, AttemptState::Building).await;
    assert_eq!(world.state("web-1").await, BuildState::Building, "it may go on");
    assert!(world.waits("serial-1").await.starts_with("build serial-2 "));

    // One whose end was asked for has ended.
    let mut world = World::new("").await;
    world.goes("serial-1").await;
    world.cancel("serial-1").await;
    world.pass(31);
    world.goes("serial-2").await;
    world.is_cancelled("serial-1").await;
}

#[tokio::test]
async fn a_crash_costs_nobody_its_turn() {
    let mut world = World::new("max_running = 1").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    let (_, answer) = world.claim_with("serial-1", |claim| claim.replaces = Some(first)).await;
    assert_eq!(answer, ClaimAnswer::Go { next_seq: 0 });
}

#[tokio::test]
async fn what_an_operator_puts_back_comes_last() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.ends("serial-1", first, AttemptState::Failed).await;
    let second = world.goes("serial-2").await;
    world.waits("serial-3").await;
    world.now += Duration::from_millis(1);
    let again = |claim: &mut Claim| claim.requeue = Some("letter".to_owned());
    let (_, answer) = world.claim_with("serial-1", again).await;
    assert!(matches!(answer, ClaimAnswer::Wait { .. }), "{answer:?}");
    assert_eq!(world.state("serial-1").await, BuildState::Queued);
    world.ends("serial-2", second, AttemptState::Published).await;
    assert!(matches!(world.claim_with("serial-1", again).await.1, ClaimAnswer::Wait { .. }));
    let third = world.goes("serial-3").await;
    world.ends("serial-3", third, AttemptState::Published).await;
    assert!(matches!(world.claim_with("serial-1", again).await.1, ClaimAnswer::Go { .. }));
}

#[tokio::test]
async fn a_cancel_ends_what_waits_or_is_to_be_tried_again_at_once() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.waits("serial-3").await;
    world.cancel("serial-2").await;
    assert_eq!(
        (world.state("serial-2").await, world.build("serial-2").await.waiting),
        (BuildState::Cancelled, None)
    );
    assert_eq!(world.is_cancelled("serial-2").await, "");
    world.cancel("serial-1").await;
    // Not told yet, it fails otherwise: nobody tries it again.
    world.ends("serial-1", first, AttemptState::Retrying).await;
    world.is_cancelled("serial-1").await;
    world.goes("serial-3").await;
}

#[tokio::test]
async fn leases_outlive_a_restart_of_the_service() {
    let mut world = World::new("").await;
    world.goes("web-1").await;
    world.pass(31);
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    // Nobody can renew for ten minutes.
    world.pass(600);
    world.database.renew_all(world.now).await.unwrap();
    assert_eq!(world.state("web-1").await, BuildState::Interrupted, "it had fallen silent before");
    assert!(world.waits("serial-2").await.starts_with("build serial-1 "));
    world.ends("serial-1", first, AttemptState::Building).await;
    world.now += LEASE;
    assert_eq!(world.state("serial-1").await, BuildState::Interrupted);
}
