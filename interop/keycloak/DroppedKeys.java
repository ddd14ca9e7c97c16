import java.time.Duration;
import java.util.List;

/** A person or a deployment puts another {@code private_key.pem} in place. */
final class DroppedKeys {
    private final Setup setup;

    DroppedKeys(Setup setup) {
        this.setup = setup;
    }

    /** A key dropped in while Keycloak may fetch: once it is published, nothing fails. */
    void cold(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("dropped-cold")) {
            server.start();
            Client client = setup.client("dropped-cold", server);
            scenario.accepted("the first key", client.request(server.currentKey()));
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());
            Key dropped = Key.generate();
            server.putCurrentKey(dropped);
            Duration published = server.awaitServed(dropped);
            scenario.figure("published after", published);
            scenario.check("published within 2 s", published.compareTo(Duration.ofSeconds(2)) <= 0);
            Client.Running running = client.run(true);
            Thread.sleep(5_000);
            List<Client.Request> requests = running.stop();
            Gap gap = Gap.of(requests);
            scenario.figure("requests", requests.size());
            scenario.figure("failed", gap.failed());
            scenario.check("no request fails", gap.failed() == 0 && requests.size() >= 20);
        }
    }

    /** A key dropped in just after a fetch: assertions fail until Keycloak may fetch again. */
    void warm(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("dropped-warm")) {
            server.start();
            Client client = setup.client("dropped-warm", server);
            Client.Running running = client.run(true);
            Thread.sleep(1_000);
            server.putCurrentKey(Key.generate());
            Thread.sleep(Setup.WINDOW_AT_MOST.plusSeconds(2).toMillis());
            failsForTheWindow(scenario, running.stop());
            scenario.check("the server reports it",
                    server.log().contains("unannounced_activation"));
        }
    }

    /** A client that signs before the server publishes makes Keycloak fetch too early. */
    void raced(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("dropped-raced")) {
            server.start();
            Client client = setup.client("dropped-raced", server);
            scenario.accepted("the first key", client.request(server.currentKey()));
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());
            Key dropped = Key.generate();
            scenario.refused("the key before it is published", client.request(dropped));
            server.putCurrentKey(dropped);
            server.awaitServed(dropped);
            Client.Running running = client.run(true);
            Thread.sleep(Setup.WINDOW_AT_MOST.plusSeconds(1).toMillis());
            failsForTheWindow(scenario, running.stop());
        }
    }

    private static void failsForTheWindow(
            Report.Scenario scenario, List<Client.Request> requests) {
        Gap gap = Gap.of(requests);
        scenario.figure("requests", requests.size());
        scenario.figure("failed", gap.failed());
        scenario.figure("failing for", gap.duration());
        scenario.check("it fails for 5 to 12 s, then no more", gap.recovered()
                && gap.duration().compareTo(Duration.ofSeconds(5)) >= 0
                && gap.duration().compareTo(Setup.WINDOW_AT_MOST) <= 0);
    }
}
