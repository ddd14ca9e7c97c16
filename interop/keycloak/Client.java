import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Base64;
import java.util.Comparator;
import java.util.List;
import java.util.Queue;
import java.util.UUID;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** An OAuth client of Keycloak whose keys one {@code jwks-server} publishes. */
record Client(String id, Keycloak keycloak, JwksServer server) {
    /** How often a running client asks for a token. */
    static final Duration PERIOD = Duration.ofMillis(200);
    /** How late a delayed assertion arrives after it was signed. */
    static final Duration DELAY = Duration.ofSeconds(3);

    /** An assertion signed with any key, whether or not the server has it. */
    String assertion(Key key, boolean withKid) throws Exception {
        return assertion(key, withKid, "\"" + keycloak.issuer() + "\"");
    }

    /** The same with an audience of one's own, as JSON. */
    String assertion(Key key, boolean withKid, String audience) throws Exception {
        long now = Instant.now().getEpochSecond();
        String header = "{\"alg\":\"ES256\",\"typ\":\"JWT\""
                + (withKid ? ",\"kid\":\"" + key.kid() + "\"" : "") + "}";
        String claims = "{\"iss\":\"" + id + "\",\"sub\":\"" + id + "\",\"aud\":" + audience
                + ",\"jti\":\"" + UUID.randomUUID() + "\",\"iat\":" + now
                + ",\"exp\":" + (now + 60) + "}";
        return key.sign(header, claims);
    }

    /** An assertion by {@code jwks-server assertion}. */
    String assertionByCommand(boolean withKid) throws Exception {
        String[] command = {"assertion", "--client-id", id, "--audience", keycloak.issuer()};
        if (!withKid) {
            command = Arrays.copyOf(command, command.length + 1);
            command[command.length - 1] = "--no-kid";
        }
        return server.command(command).strip();
    }

    /** A token request with an assertion signed with this key. */
    Keycloak.Answer request(Key key) throws Exception {
        return keycloak.requestToken(assertion(key, true), null);
    }

    /** The same without a kid. */
    Keycloak.Answer requestWithoutKid(Key key) throws Exception {
        return keycloak.requestToken(assertion(key, false), null);
    }

    /** One token request and its answer; the time is that of sending. */
    record Request(Instant at, String kid, Way way, Keycloak.Answer answer) {
        boolean accepted() {
            return answer.accepted();
        }
    }

    /** How the assertion of a request came about. */
    enum Way { SIGNED_NOW, BY_COMMAND, SIGNED_EARLIER }

    /** Starts to ask for tokens, each assertion signed with the key that the file holds then. */
    Running run(boolean withKid) {
        return new Running(withKid, false);
    }

    /**
     * The same, but every tenth assertion comes from {@code jwks-server assertion}, and every tenth
     * is sent {@link #DELAY} after it was signed, so that some signed with the old key arrive after
     * a rotation.
     */
    Running runMixed() {
        return new Running(true, true);
    }

    /** A client that asks for a token every {@link #PERIOD}. */
    final class Running {
        private final Queue<Request> requests = new ConcurrentLinkedQueue<>();
        private final ScheduledThreadPoolExecutor executor = new ScheduledThreadPoolExecutor(2);
        private final boolean withKid;
        private final boolean mixed;
        private int ticks;

        private Running(boolean withKid, boolean mixed) {
            this.withKid = withKid;
            this.mixed = mixed;
            long period = PERIOD.toMillis();
            executor.setContinueExistingPeriodicTasksAfterShutdownPolicy(false);
            executor.scheduleAtFixedRate(this::tick, 0, period, TimeUnit.MILLISECONDS);
        }

        /** The number of different keys whose assertions were accepted so far. */
        long keysAccepted() {
            return requests.stream().filter(Request::accepted).map(Request::kid).distinct().count();
        }

        /** Stops, waits for what is on its way, and returns all in the order of sending. */
        List<Request> stop() throws Exception {
            executor.shutdown();
            if (!executor.awaitTermination(30, TimeUnit.SECONDS)) {
                throw new IllegalStateException("token requests still on their way after 30 s");
            }
            return requests.stream().sorted(Comparator.comparing(Request::at)).toList();
        }

        private void tick() {
            int tick = ticks++;
            if (mixed && tick % 10 == 3) {
                send(Way.BY_COMMAND);
            } else if (mixed && tick % 10 == 7) {
                send(Way.SIGNED_EARLIER);
            } else {
                send(Way.SIGNED_NOW);
            }
        }

        /** Whatever goes wrong is an answer that is not accepted: nothing is lost silently. */
        private void send(Way way) {
            String kid = "unknown";
            try {
                if (way == Way.BY_COMMAND) {
                    String assertion = assertionByCommand(withKid);
                    finish(Keycloak.member(headerOf(assertion), "kid"), way, assertion);
                    return;
                }
                Key key = server.currentKey();
                kid = key.kid();
                String signedBy = kid;
                String assertion = assertion(key, withKid);
                if (way == Way.SIGNED_EARLIER) {
                    executor.schedule(() -> finish(signedBy, way, assertion),
                            DELAY.toMillis(), TimeUnit.MILLISECONDS);
                } else {
                    finish(kid, way, assertion);
                }
            } catch (Exception error) {
                requests.add(new Request(Instant.now(), kid, way, failure(error)));
            }
        }

        private void finish(String kid, Way way, String assertion) {
            Instant at = Instant.now();
            try {
                requests.add(new Request(at, kid, way, keycloak.requestToken(assertion, null)));
            } catch (Exception error) {
                requests.add(new Request(at, kid, way, failure(error)));
            }
        }

        private static Keycloak.Answer failure(Exception error) {
            return new Keycloak.Answer(0, error.toString());
        }

        private static String headerOf(String token) {
            return new String(Base64.getUrlDecoder().decode(token.split("\\.")[0]));
        }
    }
}
