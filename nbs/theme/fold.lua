-- On the library's pages the source of a definition is folded: what it is called with, and its
-- sentence, stand above it.

local function only_defines(text)
  local defines = false
  for line in text:gmatch("[^\n]+") do
    local is_definition = line:match("^def ") or line:match("^class ") or line:match("^async def ")
    local may_stand_beside = line:match("^[%s@#)%]}\"']") or line:match("^[%u_]+[%u%d_]* = ")
    if not (is_definition or may_stand_beside) then
      return false
    end
    defines = defines or is_definition ~= nil
  end
  return defines
end

function Div(cell)
  local in_library = quarto.doc.input_file:find("/library/", 1, true)
  if not in_library or not cell.classes:includes("cell") or #cell.content ~= 1 then
    return nil  -- a cell with an output is an example
  end
  local code = cell.content[1]
  if code.t ~= "CodeBlock" or code.attributes["code-fold"] or not only_defines(code.text) then
    return nil
  end
  code.attributes["code-fold"] = "true"
  code.attributes["code-summary"] = "Source"
  return cell
end
