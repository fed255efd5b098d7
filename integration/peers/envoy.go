//go:build linux

package peers

import (
	"encoding/json"
	"net"
	"strconv"
)

// object is a JSON object of Envoy's configuration.
type object = map[string]any

// withType returns an object of Envoy's API with its type.
func withType(name string, o object) object {
	o["@type"] = "type.googleapis.com/envoy." + name
	return o
}

// Envoy runs Envoy's binary. Envoy chooses the upstream proxy with the fewest requests, makes up to
// three attempts, each through another upstream proxy, and excludes a proxy after 5 errors in a row
// (outlier detection).
func Envoy(binary string) Prepare {
	return func(s Setup) ([]string, error) {
		text, err := json.MarshalIndent(envoyConfig(&s), "", " ")
		if err != nil {
			return nil, err
		}
		path, err := s.writeFile("envoy.json", string(text))
		return []string{binary, "-c", path, "--concurrency", strconv.Itoa(s.Threads), "--disable-hot-restart",
			"--log-level", "error"}, err
	}
}

func socketAddress(addr string) object {
	host, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	return object{"socket_address": object{"address": host, "port_value": number}}
}

func envoyConfig(s *Setup) object {
	retry := object{
		"retry_on": "5xx,connect-failure,reset,retriable-status-codes", "retriable_status_codes": []int{502, 503, 504},
		"num_retries": 2, "host_selection_retry_max_attempts": 5,
		"retry_back_off": object{"base_interval": "0.1s", "max_interval": "1s"},
		"retry_host_predicate": []object{{"name": "envoy.retry_host_predicates.previous_hosts",
			"typed_config": withType(
				"extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", object{})}},
	}
	if s.Checks {
		retry["per_try_timeout"] = "2s"
	}
	manager := withType("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": "in", "http_protocol_options": object{"allow_absolute_url": true},
		"upgrade_configs": []object{{"upgrade_type": "CONNECT"}},
		"route_config": object{"virtual_hosts": []object{{"name": "all", "domains": []string{"*"}, "routes": []object{
			{"match": object{"connect_matcher": object{}}, "route": object{"cluster": "out", "timeout": "0s",
				"retry_policy": retry}},
			{"match": object{"prefix": "/"}, "route": object{"cluster": "out", "timeout": "60s",
				"retry_policy": retry}},
		}}}},
		"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": withType(
			"extensions.filters.http.router.v3.Router", object{})}},
	})
	var endpoints []object
	for _, u := range s.Upstreams {
		endpoints = append(endpoints, object{"endpoint": object{"address": socketAddress(u)}})
	}
	limit := 20_000
	cluster := object{
		"name": "out", "type": "STATIC", "connect_timeout": "3s", "lb_policy": "LEAST_REQUEST",
		"circuit_breakers": object{"thresholds": []object{{"max_connections": limit, "max_pending_requests": limit,
			"max_requests": limit, "max_retries": limit}}},
		"outlier_detection": object{"consecutive_5xx": 5, "base_ejection_time": "30s", "max_ejection_percent": 100},
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": withType(
			"extensions.upstreams.http.v3.HttpProtocolOptions", object{"explicit_http_config": object{
				"http_protocol_options": object{"send_fully_qualified_url": true}}})},
		"load_assignment": object{"cluster_name": "out", "endpoints": []object{{"lb_endpoints": endpoints}}},
	}
	if s.Checks {
		// Without this setting, Envoy also uses excluded upstream proxies if more than half of them
		// are excluded.
		cluster["common_lb_config"] = object{"healthy_panic_threshold": object{"value": 0}}
		cluster["health_checks"] = []object{{
			"timeout": "1s", "interval": "1s", "no_traffic_interval": "1s", "unhealthy_threshold": 2,
			"healthy_threshold": 1, "http_health_check": object{"path": HealthPath, "host": HealthHost},
		}}
	}
	return object{"static_resources": object{
		"listeners": []object{{"address": socketAddress(s.Addr), "filter_chains": []object{{"filters": []object{{
			"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}}}}}},
		"clusters": []object{cluster},
	}}
}
