import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** A real Keycloak with the realm of {@code realm.json}, in memory, on a free loopback port. */
final class Keycloak implements AutoCloseable {
    /** Keycloak's own, since no option is given: it fetches a client's set every 10 s at most. */
    static final int DEFAULT_WINDOW = -1;

    private static final String ADMIN = "interop-admin";
    private static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(5)).build();

    final Path log;
    private final String origin;
    private final Process process;

    /**
     * @param window seconds between two fetches of a client's set, or {@link #DEFAULT_WINDOW}
     * @param realm the text of {@code realm.json}, with the ports filled in
     */
    Keycloak(Path home, Path work, String realm, int window) throws Exception {
        int port = Programs.freePort();
        origin = "http://127.0.0.1:" + port;
        log = work.resolve(
                window == DEFAULT_WINDOW ? "keycloak.log" : "keycloak-window-" + window + ".log");
        Path imports = Files.createDirectories(home.resolve("data/import"));
        Files.writeString(imports.resolve("interop-realm.json"), realm);
        var command = new ArrayList<>(List.of(
                home.resolve("bin/kc.sh").toString(), "start-dev", "--import-realm",
                "--db=dev-mem",
                "--features-disabled=account,ciba,device-flow,impersonation,kerberos",
                "--http-host=127.0.0.1", "--http-port=" + port,
                "--log-level=INFO,org.keycloak.keys.infinispan:debug"));
        if (window != DEFAULT_WINDOW) {
            command.add(
                    "--spi-public-key-storage--infinispan--min-time-between-requests=" + window);
        }
        ProcessBuilder builder = new ProcessBuilder(command);
        builder.environment().keySet().removeIf(name -> name.startsWith("KC_"));
        builder.environment().putAll(Map.of(
                "KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN,
                "KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN,
                "JAVA_OPTS_KC_HEAP", "-Xms64m -Xmx512m",
                "JAVA_OPTS_APPEND", "-XX:TieredStopAtLevel=1"));
        process = Programs.start(builder, log);
        Programs.await("Keycloak answers, see " + log, Duration.ofSeconds(300), () -> {
            if (!process.isAlive()) {
                throw new IOException("Keycloak ended, see " + log);
            }
            Thread.sleep(200);
            return isUp();
        });
    }

    /** An answer of the token endpoint, or of another one. */
    record Answer(int status, String body) {
        boolean accepted() {
            return status == 200;
        }

        /** A string member of the body, or of any JSON text. */
        String member(String name) {
            return Keycloak.member(body, name);
        }

        /** Status, error and description, for a person. */
        String told() {
            return status + " " + member("error") + " (" + member("error_description") + ")";
        }

        /** The claims of the access token, as JSON text. */
        String claims() {
            String payload = member("access_token").split("\\.")[1];
            return new String(Base64.getUrlDecoder().decode(payload), StandardCharsets.UTF_8);
        }
    }

    static String member(String json, String name) {
        Matcher matcher = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"]*)\"").matcher(json);
        return matcher.find() ? matcher.group(1) : "none";
    }

    String issuer() {
        return origin + "/realms/interop";
    }

    String tokenEndpoint() {
        return issuer() + "/protocol/openid-connect/token";
    }

    String userinfoEndpoint() {
        return issuer() + "/protocol/openid-connect/userinfo";
    }

    /** A request with the grant client_credentials, authenticated by {@code private_key_jwt}. */
    Answer requestToken(String assertion, String dpopProof) throws Exception {
        Map<String, String> form = new LinkedHashMap<>();
        form.put("grant_type", "client_credentials");
        form.put("scope", "openid");
        form.put("client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        form.put("client_assertion", assertion);
        HttpRequest.Builder request = post(tokenEndpoint(), form);
        if (dpopProof != null) {
            request.header("DPoP", dpopProof);
        }
        return send(request);
    }

    /** The same, authenticated by the secret that {@code realm.json} gives to this client. */
    Answer requestTokenWithSecret(String client) throws Exception {
        return send(post(tokenEndpoint(), Map.of("grant_type", "client_credentials",
                "client_id", client, "client_secret", "interop")));
    }

    /** What a resource server would be asked: who the token speaks for. */
    Answer userinfo(String token, String dpopProof) throws Exception {
        return send(HttpRequest.newBuilder(URI.create(userinfoEndpoint()))
                .header("Authorization", "DPoP " + token).header("DPoP", dpopProof).GET());
    }

    /** What an administrator does after a revocation: drops the cached keys of the whole realm. */
    void clearKeysCache() throws Exception {
        Answer answer =
                send(asAdmin("/clear-keys-cache").POST(HttpRequest.BodyPublishers.noBody()));
        if (answer.status() / 100 != 2) {
            throw new IOException("clear-keys-cache: " + answer);
        }
    }

    /** Registers a client; returns Keycloak's answer. */
    Answer register(String client) throws Exception {
        return send(asAdmin("/clients").header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(client)));
    }

    /** How often Keycloak fetched the key set of this client so far, as its log says. */
    long fetches(String client) throws IOException {
        String line =
                "Public keys retrieved successfully for model interop::client::" + client + "::";
        try (var lines = Files.lines(log)) {
            return lines.filter(text -> text.contains(line)).count();
        }
    }

    @Override
    public void close() {
        Programs.stop(process);
    }

    private boolean isUp() throws Exception {
        try {
            return send(HttpRequest.newBuilder(URI.create(issuer())).GET()).status() == 200;
        } catch (IOException notYet) {
            return false;
        }
    }

    private HttpRequest.Builder asAdmin(String path) throws Exception {
        Answer login = send(post(
                origin + "/realms/master/protocol/openid-connect/token",
                Map.of("grant_type", "password", "client_id", "admin-cli",
                        "username", ADMIN, "password", ADMIN)));
        return HttpRequest.newBuilder(URI.create(origin + "/admin/realms/interop" + path))
                .header("Authorization", "Bearer " + login.member("access_token"));
    }

    private static HttpRequest.Builder post(String url, Map<String, String> form) {
        String body = form.entrySet().stream()
                .map(field -> field.getKey() + "="
                        + URLEncoder.encode(field.getValue(), StandardCharsets.UTF_8))
                .collect(Collectors.joining("&"));
        return HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", "application/x-www-form-urlencoded")
                .POST(HttpRequest.BodyPublishers.ofString(body));
    }

    private static Answer send(HttpRequest.Builder request) throws Exception {
        HttpResponse<String> response = HTTP.send(
                request.timeout(Duration.ofSeconds(15)).build(),
                HttpResponse.BodyHandlers.ofString());
        return new Answer(response.statusCode(), response.body());
    }
}
