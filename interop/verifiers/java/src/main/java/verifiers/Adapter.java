package verifiers;

import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSource;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jose.util.JSONObjectUtils;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import org.springframework.security.oauth2.jose.jws.SignatureAlgorithm;
import org.springframework.security.oauth2.jwt.JwtValidators;
import org.springframework.security.oauth2.jwt.NimbusJwtDecoder;

/**
 * Answers, one JSON object a line, whether a verifier from Maven Central accepts a token.
 *
 * <p>Each (verifier, instance) pair has a cache of its own, filled by its own fetches of the set, and
 * every verifier keeps its default settings. The protocol is told in ../README.md.
 */
final class Adapter {
  private static final String NIMBUS = "Nimbus JOSE+JWT";
  private static final String SPRING = "Spring NimbusJwtDecoder";

  private final String jwksUri;
  private final String clientId;
  private final String audience;
  private final Map<String, Verifier> instances = new ConcurrentHashMap<>();

  private interface Verifier {
    void verify(String token) throws Exception;
  }

  private Adapter(String jwksUri, String clientId, String audience) {
    this.jwksUri = jwksUri;
    this.clientId = clientId;
    this.audience = audience;
  }

  public static void main(String[] args) throws Exception {
    new Adapter(args[0], args[1], args[2]).run();
  }

  private void run() throws Exception {
    say(Map.of("verifiers", List.of(
        named(NIMBUS, versionOf(JWKSource.class)),
        named(SPRING, versionOf(NimbusJwtDecoder.class)))));
    var threads = Executors.newCachedThreadPool();
    try (var lines = new BufferedReader(new InputStreamReader(System.in))) {
      for (String line; (line = lines.readLine()) != null; ) {
        Map<String, Object> question = JSONObjectUtils.parse(line);
        threads.submit(() -> say(answer(question)));
      }
    } finally {
      threads.shutdownNow();
    }
  }

  private Map<String, Object> answer(Map<String, Object> question) {
    String verifier = (String) question.get("verifier");
    Map<String, Object> answer = new LinkedHashMap<>();
    answer.put("id", question.get("id"));
    try {
      instances
          .computeIfAbsent(verifier + "/" + question.get("instance"), key -> open(verifier))
          .verify((String) question.get("token"));
      answer.put("accepted", true);
    } catch (Exception error) {
      answer.put("accepted", false);
      answer.put("error", error.getClass().getSimpleName() + ": " + error.getMessage());
    }
    return answer;
  }

  private Verifier open(String verifier) {
    return switch (verifier) {
      case NIMBUS -> nimbus();
      case SPRING -> spring();
      default -> throw new IllegalArgumentException("no such verifier: " + verifier);
    };
  }

  private Verifier nimbus() {
    try {
      JWKSource<SecurityContext> keys =
          JWKSourceBuilder.create(URI.create(jwksUri).toURL()).build();
      var processor = new DefaultJWTProcessor<SecurityContext>();
      processor.setJWSKeySelector(new JWSVerificationKeySelector<>(JWSAlgorithm.ES256, keys));
      processor.setJWTClaimsSetVerifier(new DefaultJWTClaimsVerifier<>(
          audience, new JWTClaimsSet.Builder().issuer(clientId).build(), Set.of("exp")));
      return token -> processor.process(token, null);
    } catch (java.net.MalformedURLException error) {
      throw new IllegalArgumentException(error);
    }
  }

  private Verifier spring() {
    var decoder =
        NimbusJwtDecoder.withJwkSetUri(jwksUri).jwsAlgorithm(SignatureAlgorithm.ES256).build();
    decoder.setJwtValidator(JwtValidators.createDefaultWithIssuer(clientId));
    return decoder::decode;
  }

  private static Map<String, Object> named(String name, String version) {
    return Map.of("name", name, "version", version, "from", "Maven");
  }

  /** The version in the name of the jar file that holds the class. */
  private static String versionOf(Class<?> its) {
    String jar = its.getProtectionDomain().getCodeSource().getLocation().getPath();
    return jar.replaceAll("^.*-([0-9][^/]*)\\.jar$", "$1");
  }

  private static void say(Map<String, Object> line) {
    synchronized (System.out) {
      System.out.println(JSONObjectUtils.toJSONString(line));
      System.out.flush();
    }
  }
}
