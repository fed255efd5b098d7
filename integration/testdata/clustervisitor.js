// What somebody sees on the dashboard of a gateway of a cluster, in the page itself: TestTheDashboardOfACluster adds it.
const done = [];
const cells = name => {
  const row = [...document.querySelectorAll("#cluster tr")].find(tr => tr.cells[0].textContent.startsWith(name));
  return row ? [...row.cells].map(td => td.textContent) : [];
};
const text = () => document.querySelector("#clustertext").textContent;

async function until(what, shown) {
  for (const end = Date.now() + 60000; Date.now() < end; ) {
    if (shown()) return done.push(what);
    await new Promise(next => setTimeout(next, 50));
  }
  throw new Error("never: " + what + "; " + text() + " " + cells("node0") + " " + cells("node1"));
}

const report = { Done: done };
try {
  await until("shows this gateway", () => cells("node0 this gateway")[1] === "live");
  await until("shows the requests of the other one", () => cells("node1")[4] === "9" && cells("node1")[5] === "100 %");
  await until("shows its proxies", () => cells("node1")[6] === "3 of 3");
  await until("says which figures are of this gateway", () => document.querySelector("#clusterscope").textContent.includes("of this gateway, node0;"));
  await until("sums the requests", () => text().includes("9 requests, 100 % successful") && text().includes("2 of 2 nodes live"));
  await fetch("fail");
  await until("shows which node a target fails on", () => {
    const row = [...document.querySelectorAll("#clusterrows tr")].find(tr => tr.cells[0].textContent === "bad.test:80");
    return row && row.cells[2].textContent.startsWith("node0 (");
  });
  await fetch("change");
  await until("shows who changed what", () => {
    const row = document.querySelector("#audit tr");
    return row && row.cells[1].textContent === "node1" && row.cells[3].textContent === "PUT /retry/policy max_attempts";
  });
  await fetch("kill");
  await until("shows that it is gone", () => cells("node1")[1] === "gone" && text().includes("1 of 2 nodes live"));
  await fetch("stopstore");
  await until("shows that it is alone", () => text().includes("this gateway is alone") && document.querySelector("#verdict").textContent.includes("alone"));
} catch (e) {
  report.Error = e.message;
}
fetch("report", { method: "POST", body: JSON.stringify(report) });
