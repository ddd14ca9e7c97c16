import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/**
 * Takes a real Keycloak and the real {@code jwks-server} through whole rotations.
 *
 * <p>Each scenario has a client and a server of its own. Keycloak caches keys per client, so
 * scenarios do not disturb each other, and most of them run side by side.
 */
public final class Scenarios {
    private final Path home;
    private final Path binary;
    private final Path work;
    private final String only;
    private final String realm;
    private final Map<String, Integer> ports = new LinkedHashMap<>();
    private final Report report = new Report();

    private Scenarios(Path home, Path binary, Path realmFile, Path work, String only)
            throws Exception {
        this.home = home;
        this.binary = binary;
        this.work = work;
        this.only = only;
        realm = Pattern.compile("PORT-OF-([a-z-]+)").matcher(Files.readString(realmFile))
                .replaceAll(match -> ports
                        .computeIfAbsent(match.group(1), client -> Programs.freePort()).toString());
    }

    /** Arguments: Keycloak's home and version, jwks-server, realm, work, results, filter. */
    public static void main(String[] args) throws Exception {
        Programs.stopAllAtExit();
        Scenarios scenarios = new Scenarios(
                Path.of(args[0]), Path.of(args[2]), Path.of(args[3]), Path.of(args[4]), args[6]);
        Instant from = Instant.now();
        scenarios.runAll();
        Map<String, String> about = new LinkedHashMap<>();
        about.put("date", from.toString().substring(0, 10));
        about.put("keycloak", args[1]);
        about.put("jwks_server", Programs.run(List.of(args[2], "--version")).strip());
        about.put("java", System.getProperty("java.version"));
        about.put("seconds", Long.toString(Gap.since(from).toSeconds()));
        scenarios.report.write(Path.of(args[5]), about);
        System.exit(scenarios.report.print() ? 0 : 1);
    }

    private void runAll() throws Exception {
        System.out.println("Keycloak with its default refetch window of 10 s");
        try (Keycloak keycloak = new Keycloak(home, work, realm, Keycloak.DEFAULT_WINDOW)) {
            defaultWindow(new Setup(keycloak, binary, work, ports));
        }
        System.out.println("\nKeycloak with a refetch window of 1 s");
        try (Keycloak keycloak = new Keycloak(home, work, realm, 1)) {
            shortWindow(new Setup(keycloak, binary, work, ports));
        }
    }

    private void defaultWindow(Setup setup) throws Exception {
        Faults faults = new Faults(setup);
        Rotations rotations = new Rotations(setup);
        DroppedKeys droppedKeys = new DroppedKeys(setup);
        Revocations revocations = new Revocations(setup);
        BoundTokens boundTokens = new BoundTokens(setup);
        // These two clear the cache of the whole realm, so nothing may run beside them.
        run("default single key; jwks-server restarted; cache cleared", faults::serverRestarted);
        run("current key revoked, cache cleared", revocations::cleared);
        // More than 11 s apart, so that Keycloak may fetch at each; the rest is for a busy machine.
        Duration period = Duration.ofSeconds(13);
        sideBySide(3, List.of(
                () -> run("scheduled rotations, window 10 s", scenario ->
                        rotations.scheduled(scenario, "scheduled", period, "2s", "10s")),
                () -> run("negative control: rotate --now twice within the window",
                        rotations::unannounced),
                () -> run("assertions without a kid through rotations", rotations::withoutKid),
                () -> run("new private_key.pem, last fetch long ago", droppedKeys::cold),
                () -> run("new private_key.pem, last fetch just now", droppedKeys::warm),
                () -> run("new key signs before it is published", droppedKeys::raced),
                () -> run("old key in the overlap and after its removal", rotations::overlap),
                () -> run("current key revoked, twice", revocations::twice),
                () -> run("jwks-server stopped, then degraded", faults::stoppedThenDegraded),
                () -> run("DPoP-bound token", boundTokens::dpop),
                () -> run("FAPI 2.0 Security Profile, with DPoP", boundTokens::fapi)));
    }

    private void shortWindow(Setup setup) throws Exception {
        Faults faults = new Faults(setup);
        Rotations rotations = new Rotations(setup);
        Duration period = Duration.ofSeconds(4);
        sideBySide(2, List.of(
                () -> run("default single key; Keycloak restarted", faults::keycloakRestarted),
                () -> run("scheduled rotations, window 1 s", scenario ->
                        rotations.scheduled(scenario, "scheduled-short", period, "1s", "6s"))));
    }

    private void run(String name, Report.Steps steps) {
        if (name.contains(only)) {
            report.run(name, steps);
        } else {
            report.skip(name);
        }
    }

    private static void sideBySide(int lanes, List<Runnable> scenarios) throws Exception {
        ExecutorService executor = Executors.newFixedThreadPool(lanes);
        scenarios.forEach(executor::execute);
        executor.shutdown();
        if (!executor.awaitTermination(10, TimeUnit.MINUTES)) {
            throw new IllegalStateException("scenarios still running after 10 min");
        }
    }
}
