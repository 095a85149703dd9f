// The Java login client of the black-box suites: kafka-clients, the official AWS_MSK_IAM library and AWS SDK for Java v2.
//
// In: one JSON object a line, {"verb": ..., ...}. Out: one JSON object a line, {"ok": true, ...} or {"ok": false, "error": ...}.
// Verbs: open (handle, properties, system) logs in by asking for the cluster; produce, consume, measures and close use the handle;
// sts calls the endpoint that AWS_ENDPOINT_URL_STS names. One process serves many tests, so that the JVM starts once.
//
// Must not: know anything of Schloss; everything but sts runs against Apache Kafka as well.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.AwsCredentials;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.AwsSessionCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.awscore.exception.AwsServiceException;
import software.amazon.awssdk.core.SdkField;
import software.amazon.awssdk.core.SdkPojo;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.sts.StsClient;
import software.amazon.awssdk.services.sts.model.AssumeRoleRequest;
import software.amazon.awssdk.services.sts.model.AssumeRoleWithWebIdentityRequest;
import software.amazon.awssdk.services.sts.model.GetCallerIdentityRequest;
import software.amazon.awssdk.services.sts.model.GetSessionTokenRequest;
import software.amazon.awssdk.services.sts.model.PolicyDescriptorType;
import software.amazon.awssdk.services.sts.model.Tag;
import software.amazon.awssdk.utils.builder.SdkBuilder;

public final class Login {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String WAIT_MS = "15000";

    /** What `open` made: the admin client that logged in, and a producer made when it is first wanted. */
    private static final class Handle {
        final Properties properties;
        final Admin admin;
        KafkaProducer<String, String> producer;

        Handle(Properties properties) {
            this.properties = properties;
            this.admin = Admin.create(properties);
        }

        KafkaProducer<String, String> producer() {
            if (producer == null) producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
            return producer;
        }

        void close() {
            admin.close(Duration.ZERO);
            if (producer != null) producer.close(Duration.ZERO);
        }
    }

    private static final Map<String, Handle> handles = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        for (String line; (line = in.readLine()) != null; ) {
            Map<String, Object> answer;
            try {
                answer = new LinkedHashMap<>(Map.of("ok", true));
                answer.putAll(call(JSON.readTree(line)));
            } catch (AwsServiceException e) {
                answer = Map.of("ok", false, "error", e.awsErrorDetails().errorMessage(), "code", e.awsErrorDetails().errorCode(),
                        "status", e.statusCode(), "request_id", String.valueOf(e.requestId()));
            } catch (Throwable e) {
                answer = Map.of("ok", false, "error", text(e));
            }
            out.println(JSON.writeValueAsString(answer));
        }
    }

    private static Map<String, Object> call(JsonNode c) throws Exception {
        String handle = c.path("handle").asText();
        switch (c.path("verb").asText()) {
            case "open": return open(handle, c);
            case "describe": return described(handles.get(handle));
            case "produce": return produce(handles.get(handle), c);
            case "consume": return consume(handles.get(handle), c);
            case "measures": return measures(handles.get(handle));
            case "close":
                Handle gone = handles.remove(handle);
                if (gone != null) gone.close();
                return Map.of();
            case "sts": return sts(c);
            default: throw new IllegalArgumentException("no verb " + c);
        }
    }

    private static Map<String, Object> open(String handle, JsonNode c) throws Exception {
        system(c.path("system"));
        var properties = new Properties();
        properties.put("default.api.timeout.ms", WAIT_MS);
        properties.put("request.timeout.ms", WAIT_MS);
        properties.put("max.block.ms", WAIT_MS);
        properties.put("delivery.timeout.ms", "20000");
        properties.put("linger.ms", "0");
        properties.put("reconnect.backoff.ms", "20");
        properties.put("auto.offset.reset", "earliest");
        c.path("properties").properties().forEach(e -> properties.put(e.getKey(), e.getValue().asText()));
        var h = new Handle(properties);
        try {
            var seen = described(h);
            handles.put(handle, h);
            return seen;
        } catch (Exception e) {
            h.close();
            throw e;
        }
    }

    /** System properties are where the AWS SDK's default chain looks first; null takes one away. */
    private static void system(JsonNode wanted) {
        wanted.properties().forEach(e -> {
            if (e.getValue().isNull()) System.clearProperty(e.getKey());
            else System.setProperty(e.getKey(), e.getValue().asText());
        });
    }

    private static Map<String, Object> described(Handle h) throws Exception {
        var cluster = h.admin.describeCluster();
        return Map.of("cluster", cluster.clusterId().get(), "nodes", cluster.nodes().get().size());
    }

    private static Map<String, Object> produce(Handle h, JsonNode c) throws Exception {
        var record = new ProducerRecord<>(c.path("topic").asText(), "k", c.path("value").asText());
        var at = h.producer().send(record).get(25, TimeUnit.SECONDS);
        return Map.of("partition", at.partition(), "offset", at.offset());
    }

    private static Map<String, Object> consume(Handle h, JsonNode c) {
        var values = new ArrayList<String>();
        long deadline = System.nanoTime() + Duration.ofSeconds(20).toNanos();
        try (var consumer = new KafkaConsumer<>(h.properties, new StringDeserializer(), new StringDeserializer())) {
            var parts = consumer.partitionsFor(c.path("topic").asText()).stream().map(p -> new TopicPartition(p.topic(), p.partition())).toList();
            consumer.assign(parts);
            consumer.seekToBeginning(parts);
            while (values.size() < c.path("count").asInt()) {
                if (System.nanoTime() > deadline) throw new IllegalStateException("only " + values.size() + " records");
                consumer.poll(Duration.ofMillis(200)).forEach(r -> values.add(r.value()));
            }
        }
        return Map.of("values", values);
    }

    /** What the client itself counts of logins: successful and failed, first and repeated. */
    private static Map<String, Object> measures(Handle h) {
        var seen = new TreeMap<String, Object>();
        h.producer().metrics().forEach((name, m) -> {
            if (name.name().matches("(successful|failed)-(re)?authentication(-no-reauth)?-total|connection-creation-total") && name.tags().size() <= 1)
                seen.put(name.name(), m.metricValue());
        });
        return Map.of("measures", seen);
    }

    // --- STS ---

    private static Map<String, Object> sts(JsonNode c) {
        JsonNode key = c.path("credentials");
        AwsCredentialsProvider provider = AnonymousCredentialsProvider.create();
        if (!key.isMissingNode() && !key.isNull()) {
            AwsCredentials pair = key.hasNonNull("session_token")
                    ? AwsSessionCredentials.create(key.path("access_key").asText(), key.path("secret_key").asText(), key.path("session_token").asText())
                    : AwsBasicCredentials.create(key.path("access_key").asText(), key.path("secret_key").asText());
            provider = StaticCredentialsProvider.create(pair);
        }
        JsonNode p = c.path("parameters");
        try (var client = StsClient.builder().region(Region.of(c.path("region").asText("eu-central-1"))).credentialsProvider(provider)
                .overrideConfiguration(o -> o.retryStrategy(software.amazon.awssdk.core.retry.RetryMode.STANDARD)).build()) {
            switch (c.path("operation").asText()) {
                case "AssumeRole": {
                    var r = AssumeRoleRequest.builder();
                    if (p.has("Tags")) r.tags(list(p.path("Tags")).stream().map(t -> Tag.builder().key(t.path("Key").asText()).value(t.path("Value").asText()).build()).toList());
                    if (p.has("TransitiveTagKeys")) r.transitiveTagKeys(list(p.path("TransitiveTagKeys")).stream().map(JsonNode::asText).toList());
                    if (p.has("PolicyArns")) r.policyArns(list(p.path("PolicyArns")).stream().map(a -> PolicyDescriptorType.builder().arn(a.path("arn").asText()).build()).toList());
                    return plain(client.assumeRole(filled(r, p).build()));
                }
                case "AssumeRoleWithWebIdentity": return plain(client.assumeRoleWithWebIdentity(filled(AssumeRoleWithWebIdentityRequest.builder(), p).build()));
                case "GetSessionToken": return plain(client.getSessionToken(filled(GetSessionTokenRequest.builder(), p).build()));
                case "GetCallerIdentity": return plain(client.getCallerIdentity(GetCallerIdentityRequest.builder().build()));
                default: throw new IllegalArgumentException("no operation " + c.path("operation"));
            }
        }
    }

    private static List<JsonNode> list(JsonNode array) {
        var out = new ArrayList<JsonNode>();
        array.forEach(out::add);
        return out;
    }

    /** Text and number members of a request by their names in the model; lists are set by the caller. */
    @SuppressWarnings("unchecked")
    private static <B extends SdkPojo & SdkBuilder<B, ?>> B filled(B builder, JsonNode p) {
        for (SdkField<?> f : builder.sdkFields()) {
            JsonNode v = p.path(f.memberName());
            if (v.isTextual()) f.set(builder, v.asText());
            else if (v.isInt()) f.set(builder, v.asInt());
        }
        return builder;
    }

    private static Map<String, Object> plain(SdkPojo answer) {
        var out = new LinkedHashMap<String, Object>();
        for (SdkField<?> f : answer.sdkFields()) {
            Object v = f.getValueOrDefault(answer);
            if (v instanceof SdkPojo inner) v = plain(inner);
            else if (v != null && !(v instanceof Number)) v = v.toString();
            if (v != null) out.put(f.memberName(), v);
        }
        return out;
    }

    /** The class and words of an error and of its causes. */
    private static String text(Throwable e) {
        var words = new StringBuilder();
        for (Throwable t = e instanceof ExecutionException && e.getCause() != null ? e.getCause() : e; t != null; t = t.getCause()) {
            words.append(words.length() == 0 ? "" : " <- ").append(t.getClass().getSimpleName()).append(": ").append(t.getMessage());
        }
        return words.toString();
    }
}
