const table = document.getElementById("units");
if (table) {
  const body = table.tBodies[0];
  const value = (row, at) => {
    const text = row.cells[at].textContent;
    const number = Number(text.replace("−", "-").replaceAll(",", ""));
    return text === "–" ? -Infinity : Number.isNaN(number) ? text : number;
  };
  [...table.tHead.rows[0].cells].forEach((head, at) => head.addEventListener("click", () => {
    const down = head.dataset.order !== "down";
    head.dataset.order = down ? "down" : "up";
    const sign = down ? -1 : 1;
    body.append(...[...body.rows].sort((a, b) => {
      const [one, other] = [value(a, at), value(b, at)];
      return sign * (typeof one === "string" ? String(one).localeCompare(String(other)) : one - other);
    }));
  }));
}
