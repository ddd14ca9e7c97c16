import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;

/** Rotations by schedule and by command, as clients with and without a kid see them. */
final class Rotations {
    private static final int ROTATIONS = 20;

    private final Setup setup;
    private final Keycloak keycloak;

    Rotations(Setup setup) {
        this.setup = setup;
        keycloak = setup.keycloak();
    }

    /** Every token request succeeds through all rotations. */
    void scheduled(
            Report.Scenario scenario, String id, Duration period, String lead, String retention)
            throws Exception {
        String[] options = {"--rotate-every", period.toSeconds() + "s", "--publish-lead", lead,
            "--retain-for", retention, "--cache-max-age", "1s"};
        try (JwksServer server = setup.server(id, options)) {
            server.start();
            Client.Running running = setup.client(id, server).runMixed();
            // Times are recorded in whole seconds, which makes a period up to a second longer.
            Duration atMost = period.plusSeconds(1).multipliedBy(ROTATIONS + 2).plusSeconds(20);
            try {
                Programs.await(ROTATIONS + " rotations", atMost, () -> {
                    Thread.sleep(200);
                    return running.keysAccepted() > ROTATIONS;
                });
                Thread.sleep(Client.DELAY.plusSeconds(1).toMillis());
            } finally {
                List<Client.Request> requests = running.stop();
                long rotations = requests.stream().map(Client.Request::kid).distinct().count() - 1;
                long failed = Gap.of(requests).failed();
                long fetches = keycloak.fetches(id);
                scenario.figure("requests", requests.size());
                scenario.figure("failed", failed);
                scenario.figure("rotations", rotations);
                scenario.figure("by jwks-server assertion", count(requests, Client.Way.BY_COMMAND));
                scenario.figure("sent 3 s after signing",
                        count(requests, Client.Way.SIGNED_EARLIER));
                scenario.figure("arrived after their key had retired", lateArrivals(requests));
                scenario.figure("fetches by Keycloak", fetches);
                requests.stream().filter(request -> !request.accepted()).limit(3)
                        .forEach(request -> scenario.check(request.toString(), false));
                scenario.check("no request fails: " + failed + " did", failed == 0);
                scenario.check("at least " + ROTATIONS + " rotations", rotations >= ROTATIONS);
                scenario.check("a request every 200 ms or so",
                        requests.size() >= period.toSeconds() * ROTATIONS * 4);
                scenario.check("some arrived after their key had retired",
                        lateArrivals(requests) > 0);
                // A fetch often brings the standby too, so that the rotation after needs none.
                scenario.check("Keycloak fetched for every other rotation at least",
                        fetches >= rotations / 2 && fetches <= rotations + 1);
                scenario.check("no key signed before it was announced",
                        !server.log().contains("unannounced_activation"));
            }
        }
    }

    private static long count(List<Client.Request> requests, Client.Way way) {
        return requests.stream().filter(request -> request.way() == way).count();
    }

    /** How many requests came after one that was signed with a newer key. */
    private static long lateArrivals(List<Client.Request> requests) {
        List<String> order = requests.stream()
                .filter(request -> request.way() == Client.Way.SIGNED_NOW)
                .map(Client.Request::kid).distinct().toList();
        long late = 0;
        int newest = 0;
        for (Client.Request request : requests) {
            int place = order.indexOf(request.kid());
            late += place >= 0 && place < newest ? 1 : 0;
            newest = Math.max(newest, place);
        }
        return late;
    }

    /** The same client sees failures when the rule is broken, or else the above shows nothing. */
    void unannounced(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("unannounced", "--cache-max-age", "1s")) {
            server.start();
            Client.Running running = setup.client("unannounced", server).run(true);
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());
            Instant first = Instant.now();
            server.command("rotate", "--now");
            Thread.sleep(3_000);
            Instant second = Instant.now();
            server.command("rotate", "--now");
            Thread.sleep(Setup.WINDOW_AT_MOST.plusSeconds(2).toMillis());
            List<Client.Request> requests = running.stop();
            Gap all = Gap.of(requests);
            Gap before = Gap.of(requests, request -> request.at().isBefore(first));
            Gap between = Gap.of(requests, request -> !request.at().isBefore(first)
                    && request.at().isBefore(second));
            long after = all.failed() - before.failed() - between.failed();
            scenario.figure("requests", requests.size());
            scenario.figure("failed after the first", between.failed());
            scenario.figure("failed after the second", after);
            scenario.figure("failing for", all.duration());
            scenario.check("nothing fails before the rotations", before.failed() == 0);
            scenario.check("the harness sees the failures", after >= 10);
            scenario.check("they end with the window", all.recovered()
                    && all.duration().compareTo(Setup.WINDOW_AT_MOST.plusSeconds(3)) <= 0);
        }
    }

    void overlap(Report.Scenario scenario) throws Exception {
        String[] options = {"--publish-lead", "1s", "--retain-for", "15s", "--cache-max-age", "1s"};
        try (JwksServer server = setup.server("overlap", options)) {
            server.start();
            Client client = setup.client("overlap", server);
            Key first = server.currentKey();
            scenario.accepted("the first key", client.request(first));
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());
            String signedBefore = client.assertion(first, true);
            server.command("rotate");
            Key second = server.awaitReplaced(first, Duration.ofSeconds(15));
            Instant rotated = Instant.now();
            scenario.accepted("the second key", client.request(second));
            scenario.accepted("an assertion from before the rotation",
                    keycloak.requestToken(signedBefore, null));
            scenario.accepted("the first key in the overlap", client.request(first));
            server.awaitRemoved(first, Duration.ofSeconds(40));
            scenario.figure("removed after", Gap.since(rotated));
            scenario.check("not removed early",
                    Gap.since(rotated).compareTo(Duration.ofSeconds(14)) >= 0);
            scenario.accepted("the removed key, which is cached,", client.request(first));
            server.command("rotate");
            Key third = server.awaitReplaced(second, Duration.ofSeconds(15));
            scenario.accepted("the third key", client.request(third));
            scenario.refused("the removed key after Keycloak has fetched", client.request(first));
            scenario.accepted("the second key in its overlap", client.request(second));
            scenario.figure("removed key, before and after Keycloak fetched", "accepted, refused");
        }
    }

    /** Keycloak tries only the first key of a set up to 10 s old: a gap, but a bounded one. */
    void withoutKid(Report.Scenario scenario) throws Exception {
        String[] options = {"--publish-lead", "2s", "--retain-for", "5m", "--cache-max-age", "1s"};
        try (JwksServer server = setup.server("no-kid", options)) {
            server.start();
            Client client = setup.client("no-kid", server);
            scenario.accepted("one by the command",
                    keycloak.requestToken(client.assertionByCommand(false), null));
            Client.Running running = client.run(false);
            List<Instant> rotated = new ArrayList<>();
            Thread.sleep(5_000);
            for (int i = 0; i < 3; i++) {
                Key old = server.currentKey();
                server.command("rotate");
                server.awaitReplaced(old, Duration.ofSeconds(15));
                rotated.add(Instant.now());
                Thread.sleep(Setup.WINDOW_AT_MOST.plusMillis(1_000 + 1_700L * i).toMillis());
                scenario.refused("the old key without a kid, the new one fetched,",
                        client.requestWithoutKid(old));
                scenario.accepted("the old key with its kid", client.request(old));
            }
            List<Client.Request> requests = running.stop();
            Instant first = rotated.get(0).minusMillis(500);
            Gap before = Gap.of(requests, request -> request.at().isBefore(first));
            scenario.check("nothing fails before the first rotation", before.failed() == 0);
            scenario.figure("requests", requests.size());
            long failed = 0;
            for (int i = 0; i < 3; i++) {
                // The file is replaced a moment before this program notices.
                Instant from = rotated.get(i).minusMillis(500);
                Instant to = i < 2 ? rotated.get(i + 1).minusMillis(500) : Instant.MAX;
                Gap gap = Gap.of(requests, request ->
                        !request.at().isBefore(from) && request.at().isBefore(to));
                failed += gap.failed();
                scenario.figure("rotation " + (i + 1) + ": failed", gap.failed());
                scenario.figure("rotation " + (i + 1) + ": failing for", gap.duration());
                scenario.check("rotation " + (i + 1) + " is over within 12 s", gap.recovered()
                        && gap.duration().compareTo(Setup.WINDOW_AT_MOST) <= 0);
            }
            scenario.figure("failed, all together", failed);
            scenario.figure("fetches by Keycloak", keycloak.fetches("no-kid"));
        }
    }
}
