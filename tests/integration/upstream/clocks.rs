//! An exchange whose clock differs from ours.

use std::time::{Duration, SystemTime};

use tradebot_base::market::Market;
use tradebot_test_support::Reply;

use crate::world::{World, good_list, path};

#[tokio::test]
async fn clocks_that_are_far_apart_are_told_of_once() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now;
    let far = "clock and this machine's are far apart";
    let near = "clock and this machine's agree again";
    let told = |what: &str| worker.output().matches(what).count();
    for (date, wanted) in [
        (now(), (0, 0)),
        (now() + hour, (1, 0)),
        (now() + hour, (1, 0)),
        (now(), (1, 1)),
        (now() - hour, (2, 1)),
    ] {
        let date = httpdate::fmt_http_date(date);
        let answer = Reply::json(good_list()).header("Date", &date);
        world.exchange.always(path(Market::Spot), answer);
        let (id, result) = world.run_last_try(Market::Spot).await;
        assert_eq!(result["status"], "SUCCESS");
        // Told of the list, it has told of the clock.
        worker.wait_for_line(
            &format!(
                "task succeeded task.name=\"{}\" task.id=\"{id}\"",
                Market::Spot.warmup_task()
            ),
            crate::world::PATIENCE,
        );
        assert_eq!((told(far), told(near)), wanted, "{date}\n{}", worker.output());
    }
    let line = worker.wait_for_line(far, crate::world::PATIENCE);
    let (_, offset) = line.split_once("offset_ms=").expect("by how much");
    let offset: i64 = offset
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("milliseconds");
    assert!((3_500_000..=3_600_000).contains(&offset), "{line}");
}
