import java.time.Duration;
import java.time.Instant;
import java.util.List;

/** How long Keycloak accepts a key that was revoked. */
final class Revocations {
    private final Setup setup;
    private final Keycloak keycloak;

    Revocations(Setup setup) {
        this.setup = setup;
        keycloak = setup.keycloak();
    }

    void cleared(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("revoked-cleared")) {
            server.start();
            Client client = setup.client("revoked-cleared", server);
            Key revoked = server.currentKey();
            scenario.accepted("the key before its revocation", client.request(revoked));
            Instant from = Instant.now();
            server.command("revoke", revoked.kid(), "--reason", "interop");
            scenario.accepted("the revoked key, which is cached,", client.request(revoked));
            server.awaitServed(server.currentKey());
            keycloak.clearKeysCache();
            scenario.refused("the revoked key, no longer cached,", client.request(revoked));
            scenario.figure("revoke to refused, cache cleared at once", Gap.since(from));
            scenario.accepted("the new key", client.request(server.currentKey()));
        }
    }

    /** First while Keycloak may fetch, then again just after it did. */
    void twice(Report.Scenario scenario) throws Exception {
        // A standby is published and known to Keycloak: it must not be what replaces the key.
        String[] options = {"--rotate-every", "1h", "--publish-lead", "1s",
            "--retain-for", "60s", "--cache-max-age", "1s"};
        try (JwksServer server = setup.server("revoked", options)) {
            server.start();
            Client client = setup.client("revoked", server);
            Programs.await("a standby", Duration.ofSeconds(15),
                    () -> server.servedKids().size() == 2);
            List<String> known = server.servedKids();
            Key first = server.currentKey();
            scenario.accepted("the first key", client.request(first));
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());

            Instant from = Instant.now();
            server.command("revoke", first.kid(), "--reason", "interop");
            Key second = server.currentKey();
            scenario.check("the replacement was never published", !known.contains(second.kid()));
            server.awaitServed(second);
            for (int i = 0; i < 6; i++) {
                scenario.accepted("the revoked key, no new kid seen,", client.request(first));
                Thread.sleep(500);
            }
            scenario.figure("no new kid seen: revoked key accepted for all of", Gap.since(from));
            Instant evicting = Instant.now();
            scenario.accepted("the second key", client.request(second));
            scenario.refused("the revoked key after that", client.request(first));
            scenario.figure("new kid seen: revoked key refused after", Gap.since(evicting));

            // Keycloak has just fetched, so it may not fetch for the third key at once.
            Instant again = Instant.now();
            server.command("revoke", second.kid(), "--reason", "interop");
            Key third = server.currentKey();
            int failed = 0;
            int stillAccepted = 0;
            while (!client.request(third).accepted()
                    && Gap.since(again).compareTo(Setup.WINDOW_AT_MOST) <= 0) {
                failed++;
                stillAccepted += client.request(second).accepted() ? 1 : 0;
                Thread.sleep(Client.PERIOD.toMillis());
            }
            scenario.refused("the second revoked key, the third known,", client.request(second));
            Duration refusedAfter = Gap.since(again);
            scenario.figure("fetched just before: revoked key refused after", refusedAfter);
            scenario.figure("fetched just before: failed with the new key", failed);
            scenario.figure("fetched just before: accepted with the revoked key", stillAccepted);
            scenario.check("it was fetched just before", failed > 0);
            scenario.check("the revoked key is refused within 12 s",
                    refusedAfter.compareTo(Setup.WINDOW_AT_MOST) <= 0);
        }
    }
}
