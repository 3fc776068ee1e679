// A button beside a text that is shown once puts it into the clipboard. Without script there is no button, and a click
// on the text selects all of it.
for (const button of document.querySelectorAll("button[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copies));
    // Works over plain HTTP as well, where navigator.clipboard is not there.
    if (document.execCommand("copy")) button.nextElementSibling.textContent = button.dataset.said;
  });
}
