import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;

/**
 * What a scenario works with: Keycloak, and for each client of the realm a server of its own.
 *
 * @param binary {@code jwks-server}
 * @param work where each server has its directory
 * @param ports for each client the port in its {@code jwks.url}
 */
record Setup(Keycloak keycloak, Path binary, Path work, Map<String, Integer> ports) {
    /**
     * Keycloak fetches a client's set again when more than 10 whole seconds have passed since it
     * did so last, which is up to 11 s; the rest is for the requests' period and a busy machine.
     */
    static final Duration WINDOW_AT_MOST = Duration.ofSeconds(12);

    /** The server of this client, not started yet. */
    JwksServer server(String client, String... options) {
        return new JwksServer(binary, work.resolve(client), ports.get(client), options);
    }

    Client client(String id, JwksServer server) {
        return new Client(id, keycloak, server);
    }
}
