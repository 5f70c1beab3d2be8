/** "Copy" buttons beside command lines. Without the clipboard API (plain http) the line is selected instead. */

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const line = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(line);
    try {
      await navigator.clipboard.writeText(line.textContent.trim());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1_500);
  });
}
