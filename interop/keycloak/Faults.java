import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.List;

/** Restarts of either side, and a server that is gone or cannot read its files. */
final class Faults {
    private final Setup setup;
    private final Keycloak keycloak;

    Faults(Setup setup) {
        this.setup = setup;
        keycloak = setup.keycloak();
    }

    void serverRestarted(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("default")) {
            Client client = setup.client("default", server);
            server.start();
            Key key = server.currentKey();
            scenario.accepted("an assertion", client.request(key));
            scenario.accepted("one by the command",
                    keycloak.requestToken(client.assertionByCommand(true), null));
            server.stop();
            server.start();
            scenario.check("the restarted server has the same key",
                    server.servedKids().equals(List.of(key.kid())));
            scenario.accepted("an assertion after the restart", client.request(key));
            scenario.check("Keycloak fetched once", keycloak.fetches("default") == 1);
            keycloak.clearKeysCache();
            scenario.accepted("an assertion after the cache was cleared", client.request(key));
            scenario.check("Keycloak fetched again", keycloak.fetches("default") == 2);
            scenario.figure("requests", 4);
            scenario.figure("fetches", keycloak.fetches("default"));
        }
    }

    void keycloakRestarted(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("default")) {
            Client client = setup.client("default", server);
            Key before = server.currentKey();
            server.start();
            scenario.check("the key is the one from before",
                    server.servedKids().equals(List.of(before.kid())));
            scenario.check("Keycloak has fetched nothing", keycloak.fetches("default") == 0);
            scenario.accepted("an assertion", client.request(before));
            scenario.check("Keycloak fetched once", keycloak.fetches("default") == 1);
        }
    }

    void stoppedThenDegraded(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("outage")) {
            server.start();
            Client client = setup.client("outage", server);
            Key key = server.currentKey();
            scenario.accepted("the key", client.request(key));

            server.stop();
            Client.Running running = client.run(true);
            Thread.sleep(Setup.WINDOW_AT_MOST.plusSeconds(1).toMillis());
            List<Client.Request> requests = running.stop();
            Gap stopped = Gap.of(requests);
            scenario.figure("stopped: requests", requests.size());
            scenario.figure("stopped: failed", stopped.failed());
            scenario.check("the cached key is accepted while jwks-server is stopped",
                    stopped.failed() == 0 && requests.size() >= 50);
            Keycloak.Answer withoutKid = client.requestWithoutKid(key);
            scenario.check("without a kid it is not: Keycloak fetches", !withoutKid.accepted());
            scenario.figure("stopped: without a kid", withoutKid.told());
            scenario.accepted("the cached key after a fetch that failed", client.request(key));

            server.start();
            Files.writeString(server.keysDirectory().resolve("garbage.pem"), "no key\n");
            Files.writeString(server.keyFile(), "no key either\n");
            awaitDegraded(server, "garbage in both");
            fetchesAndAccepts(scenario, client, key, "private_key.pem and keys/ hold garbage");

            replaceKeysByAFile(server);
            Thread.sleep(Setup.WINDOW_AT_MOST.toMillis());
            fetchesAndAccepts(scenario, client, key, "keys/ is no directory");
            scenario.figure("degraded", server.get("/readyz"));
        }
    }

    /** The server makes the directory again as soon as it is gone, so that takes more than one try. */
    private static void replaceKeysByAFile(JwksServer server) throws Exception {
        for (int tries = 1; ; tries++) {
            Path aside = server.directory.resolve("keys.aside." + tries);
            Files.move(server.keysDirectory(), aside, StandardCopyOption.ATOMIC_MOVE);
            try {
                Files.writeString(server.keysDirectory(), "no directory\n");
                return;
            } catch (FileSystemException failure) {
                if (tries == 100) {
                    throw failure;
                }
            }
        }
    }

    private static void awaitDegraded(JwksServer server, String what) throws Exception {
        Programs.await("degraded: " + what, Duration.ofSeconds(15), () -> {
            String ready = server.get("/readyz");
            return ready != null
                    && ready.contains("private_key.pem") && ready.contains("garbage.pem");
        });
    }

    /** An unknown kid makes Keycloak fetch from the degraded server, which still has the key. */
    private void fetchesAndAccepts(
            Report.Scenario scenario, Client client, Key key, String when) throws Exception {
        long before = keycloak.fetches(client.id());
        scenario.refused("an unknown key", client.request(Key.generate()));
        scenario.check("Keycloak fetched while " + when,
                keycloak.fetches(client.id()) == before + 1);
        scenario.accepted("the key while " + when, client.request(key));
    }
}
