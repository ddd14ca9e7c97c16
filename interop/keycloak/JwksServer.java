import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;

/** One {@code jwks-server} with a key directory of its own. */
final class JwksServer implements AutoCloseable {
    private static final Pattern KID = Pattern.compile("\"kid\":\"([^\"]+)\"");
    private static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(2)).build();

    final Path directory;
    private final Path binary;
    private final int port;
    private final List<String> options;
    private Process process;

    /** The options are those that a person would give, such as {@code --rotate-every 14s}. */
    JwksServer(Path binary, Path directory, int port, String... options) {
        this.binary = binary;
        this.directory = directory;
        this.port = port;
        this.options = List.of(options);
    }

    void start() throws Exception {
        Files.createDirectories(directory);
        process = Programs.start(new ProcessBuilder(arguments()), directory.resolve("log"));
        Programs.await("an answer of jwks-server", Duration.ofSeconds(20),
                () -> get("/readyz") != null);
    }

    void stop() {
        if (process != null) {
            Programs.stop(process);
            process = null;
        }
    }

    @Override
    public void close() {
        stop();
    }

    /** Runs a command such as {@code rotate} on the directory. */
    String command(String... command) throws Exception {
        return Programs.run(arguments(command));
    }

    Path keyFile() {
        return directory.resolve("private_key.pem");
    }

    Path keysDirectory() {
        return directory.resolve("keys");
    }

    /** The key that a client finds now. */
    Key currentKey() throws Exception {
        return Key.read(keyFile());
    }

    /** Puts a key in place of the current one as deployment tools do: temporary file, rename. */
    void putCurrentKey(Key key) throws Exception {
        Path temporary = directory.resolve("dropped.tmp");
        Files.deleteIfExists(temporary);
        Files.createFile(temporary,
                PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")));
        Files.writeString(temporary, key.toPem());
        Files.move(temporary, keyFile(), StandardCopyOption.ATOMIC_MOVE);
    }

    /** The kids of the published set, in document order. */
    List<String> servedKids() throws Exception {
        String set = get("/.well-known/jwks.json");
        return set == null ? List.of() : KID.matcher(set).results()
                .map((MatchResult match) -> match.group(1)).toList();
    }

    /** Waits until the key is published; returns how long that took. */
    Duration awaitServed(Key key) throws Exception {
        String kid = key.kid();
        return Programs.await(kid + " served", Duration.ofSeconds(20),
                () -> servedKids().contains(kid));
    }

    /** Waits until the key is published no more. */
    Duration awaitRemoved(Key key, Duration atMost) throws Exception {
        String kid = key.kid();
        return Programs.await(kid + " removed", atMost, () -> !servedKids().contains(kid));
    }

    /** Waits until clients find another key than this one; returns it. */
    Key awaitReplaced(Key key, Duration atMost) throws Exception {
        String kid = key.kid();
        Programs.await(kid + " replaced", atMost, () -> !currentKey().kid().equals(kid));
        return currentKey();
    }

    /** The body of an answer with status 200, or null. */
    String get(String path) throws Exception {
        try {
            HttpResponse<String> response = HTTP.send(
                    HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path))
                            .timeout(Duration.ofSeconds(5)).build(),
                    HttpResponse.BodyHandlers.ofString());
            return response.statusCode() == 200 ? response.body() : null;
        } catch (java.io.IOException unreachable) {
            return null;
        }
    }

    String log() throws Exception {
        return Files.readString(directory.resolve("log"));
    }

    private List<String> arguments(String... command) {
        List<String> arguments = new ArrayList<>(List.of(binary.toString()));
        arguments.addAll(List.of(command));
        arguments.addAll(List.of("--bind", "127.0.0.1", "--port", Integer.toString(port)));
        arguments.addAll(List.of("--key-file", keyFile().toString()));
        arguments.addAll(options);
        return arguments;
    }
}
